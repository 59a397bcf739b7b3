#!/usr/bin/env node
/**
 * Writes csi/deploy/schemas: JSON schemas of the kinds that the chart makes, strict, for kubeconform, which then needs no network.
 * From Kubernetes' own OpenAPI description and the CRDs of snapshots, both fetched as Go modules. Run it when a version below changes.
 *
 * PodMonitor is not generated: its module cannot be relied on to be served, so podmonitor-monitoring-v1.json is written by hand.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'yaml'

const KUBERNETES = 'k8s.io/kubernetes@v1.35.4'
const SNAPSHOTS = 'github.com/kubernetes-csi/external-snapshotter/client/v8@v8.4.0'
const OUT = new URL('../deploy/schemas/', import.meta.url)

/** File, as kubeconform looks for it (`{kind}-{group}-{version}`), and definition. */
const KINDS: Record<string, string> = {
  'clusterrole-rbac-v1': 'io.k8s.api.rbac.v1.ClusterRole',
  'clusterrolebinding-rbac-v1': 'io.k8s.api.rbac.v1.ClusterRoleBinding',
  'configmap-v1': 'io.k8s.api.core.v1.ConfigMap',
  'csidriver-storage-v1': 'io.k8s.api.storage.v1.CSIDriver',
  'daemonset-apps-v1': 'io.k8s.api.apps.v1.DaemonSet',
  'deployment-apps-v1': 'io.k8s.api.apps.v1.Deployment',
  'role-rbac-v1': 'io.k8s.api.rbac.v1.Role',
  'rolebinding-rbac-v1': 'io.k8s.api.rbac.v1.RoleBinding',
  'serviceaccount-v1': 'io.k8s.api.core.v1.ServiceAccount',
  'storageclass-storage-v1': 'io.k8s.api.storage.v1.StorageClass',
}

type Schema = { [key: string]: unknown; properties?: Record<string, Schema>; definitions?: Record<string, Schema> }

function module(path: string): string {
  const told = execFileSync('go', ['mod', 'download', '-json', path], { cwd: tmpdir(), encoding: 'utf8' })
  return (JSON.parse(told) as { Dir: string }).Dir
}

/** Without texts for people, closed where the description is open by omission, and with its definitions in place. */
function strict(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(strict)
  if (typeof value !== 'object' || value === null) return value
  const schema = value as Schema
  if (schema.format === 'int-or-string' || schema['x-kubernetes-int-or-string'] === true) return { type: ['string', 'integer'] }
  const kept = Object.entries(schema).filter(([key, part]) => !(key === 'description' && typeof part === 'string') && !key.startsWith('x-'))
  const result = Object.fromEntries(kept.map(([key, part]) => [key, strict(part)])) as Schema
  if (schema.properties && schema.additionalProperties === undefined && typeof schema.type === 'string') result.additionalProperties = false
  return result
}

function standalone(name: string, all: Record<string, Schema>): Schema {
  const definitions: Record<string, Schema> = {}
  const take = (definition: string): void => {
    if (definitions[definition]) return
    const schema = strict(all[definition]) as Schema
    // A quantity may be written as a number too.
    definitions[definition] = definition.endsWith('.Quantity') ? { type: ['string', 'number'] } : schema
    for (const [, next] of JSON.stringify(schema).matchAll(/"#\/definitions\/([^"]+)"/g)) take(next!)
  }
  take(name)
  const { [name]: own, ...others } = definitions
  return { $schema: 'http://json-schema.org/draft-07/schema#', ...own, ...(Object.keys(others).length > 0 && { definitions: others }) }
}

function write(file: string, schema: Schema): void {
  writeFileSync(new URL(`${file}.json`, OUT), `${JSON.stringify(schema)}\n`)
}

mkdirSync(OUT, { recursive: true })
const swagger = readFileSync(join(module(KUBERNETES), 'api/openapi-spec/swagger.json'), 'utf8')
const { definitions } = JSON.parse(swagger) as { definitions: Record<string, Schema> }
for (const [file, name] of Object.entries(KINDS)) write(file, standalone(name, definitions))

const crd = parse(readFileSync(join(module(SNAPSHOTS), 'config/crd/snapshot.storage.k8s.io_volumesnapshotclasses.yaml'), 'utf8')) as {
  spec: { versions: { name: string; schema: { openAPIV3Schema: Schema } }[] }
}
const { openAPIV3Schema } = crd.spec.versions.find(({ name }) => name === 'v1')!.schema
const metadata = { type: 'object' }
const snapshotClass = strict(openAPIV3Schema) as Schema
write('volumesnapshotclass-snapshot-v1', { ...snapshotClass, properties: { ...snapshotClass.properties, metadata } })
