/** The chart, with several sets of values: it lints, what it makes fits Kubernetes' schemas, and says what it should. */
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import test from 'ava'
import { parse, parseAllDocuments } from 'yaml'
import { checkedConfig } from '../../src/rds/config.ts'

const CHART = new URL('../../deploy/helm/ublk-csi', import.meta.url).pathname
const script = (name: string): string => new URL(`../../scripts/${name}`, import.meta.url).pathname
const run = (name: string, args: string[], input?: string): SpawnSyncReturns<string> =>
  spawnSync(script(name), args, { encoding: 'utf8', maxBuffer: 1 << 24, ...(input !== undefined && { input }) })

interface Container {
  name: string
  image: string
  args: string[]
  securityContext: { privileged?: boolean }
  volumeMounts: { name: string; mountPath: string; readOnly?: boolean; mountPropagation?: string }[]
}
interface Manifest {
  kind: string
  metadata: { name: string }
  [key: string]: unknown
}

const SETS: Record<string, string[]> = {
  'rds, as it comes': [],
  'rds without the fence': ['rds.fence=off'],
  'rds with everything': [
    'controller.replicas=2',
    'snapshotClass.create=true',
    'metrics.podMonitor.create=true',
    'metrics.podMonitor.labels.team=storage',
    'storageClass.default=true',
    'storageClass.fsType=xfs',
    'storageClass.mountOptions={noatime,discard}',
    'rds.ctrlLossTmo=-1',
    'rds.overcommit=true',
    'imagePullSecrets[0].name=pull',
    'image.tag=1.2.3',
  ],
  'ublk, as it comes': ['provider=ublk'],
  'ublk with snapshots': ['provider=ublk', 'snapshotClass.create=true', 'ublk.pool=/data/volumes', 'kubeletDirectory=/var/lib/k0s/kubelet'],
  'without a storage class': ['storageClass.create=false'],
}
const options = (set: string[]): string[] => set.flatMap((value) => ['--set', value])

function made(...set: string[]): Manifest[] {
  const { stdout, stderr, status } = run('helm', ['template', 'it', CHART, '--namespace', 'storage', ...options(set)])
  if (status !== 0) throw new Error(stderr)
  return parseAllDocuments(stdout).flatMap((document) => (document.toJS() as Manifest | null) ?? [])
}

interface Pod {
  volumes: { name: string; hostPath?: { path: string } }[]
  containers: Container[]
  hostNetwork?: boolean
  automountServiceAccountToken?: boolean
}
const podOf = (manifest: Manifest): Pod => (manifest as unknown as { spec: { template: { spec: Pod } } }).spec.template.spec

for (const [name, set] of Object.entries(SETS)) {
  test.serial(`${name}: helm lint, and kubeconform -strict`, (t) => {
    const lint = run('helm', ['lint', '--strict', CHART, ...options(set)])
    t.is(lint.status, 0, lint.stdout + lint.stderr)
    const template = run('helm', ['template', 'it', CHART, '--namespace', 'storage', ...options(set)])
    t.is(template.status, 0, template.stderr)
    const conform = run('kubeconform', [], template.stdout)
    t.is(conform.status, 0, conform.stdout + conform.stderr)
    t.regex(conform.stdout, /Valid: [1-9]\d*, Invalid: 0, Errors: 0, Skipped: 0/)
    t.log(conform.stdout.trim())
  })
}

test.serial('kubeconform would notice a field that Kubernetes does not know', (t) => {
  const template = run('helm', ['template', 'it', CHART]).stdout
  const wrong = run('kubeconform', [], template.replace('attachRequired:', 'attachNeeded:'))
  t.not(wrong.status, 0)
  t.regex(wrong.stdout, /attachNeeded/)
})

test.serial('values that cannot be meant are refused', (t) => {
  for (const value of [
    'provider=nfs',
    'rds.hostKey=yes',
    'rds.port=0',
    'rds.basePath=raid10',
    'rds.password=x',
    'rds.ctrlLossTmo=-2',
    'storageClass.fsType=ntfs',
    'sidecars.attacher=latest',
    'controler.replicas=2',
  ]) {
    t.not(run('helm', ['template', 'it', CHART, '--set', value]).status, 0, value)
  }
})

test.serial('rds: the controller has no more rights than its sidecars need, a node has none, and only its driver is privileged', (t) => {
  const manifests = made()
  const node = manifests.find(({ kind }) => kind === 'DaemonSet')!
  t.false(podOf(node).automountServiceAccountToken)
  t.deepEqual(
    manifests.filter(({ kind }) => kind.startsWith('ClusterRole') || kind.startsWith('Role')).map(({ metadata }) => metadata.name),
    Array(4).fill('it-controller'),
  )
  for (const manifest of manifests.filter(({ kind }) => kind === 'DaemonSet' || kind === 'Deployment')) {
    for (const { name, securityContext } of podOf(manifest).containers) {
      t.is(securityContext.privileged === true, manifest.kind === 'DaemonSet' && name === 'driver', `${manifest.kind} ${name}`)
    }
  }
  const rules = JSON.stringify(manifests.filter(({ kind }) => kind === 'ClusterRole'))
  t.notRegex(rules, /"\*"|secrets/)
})

/** What the cluster's roles let their accounts do with a resource. */
function verbsOf(manifests: Manifest[], group: string, resource: string): string[] {
  const roles = manifests.filter(({ kind }) => kind === 'ClusterRole') as unknown as {
    rules: { apiGroups: string[]; resources: string[]; verbs: string[] }[]
  }[]
  const rules = roles.flatMap((role) => role.rules).filter((rule) => rule.apiGroups.includes(group) && rule.resources.includes(resource))
  return [...new Set(rules.flatMap(({ verbs }) => verbs))].sort()
}

test.serial('rds: the resizer is not told to watch what it has no right to', (t) => {
  const manifests = made()
  const { args } = podOf(manifests.find(({ kind }) => kind === 'Deployment')!).containers.find(({ name }) => name === 'resizer')!
  t.deepEqual([args.includes('--handle-volume-inuse-error=false'), verbsOf(manifests, '', 'pods')], [true, []])
})

test.serial('who provisions may read classes of attributes, and hold a snapshot that is being restored', (t) => {
  for (const provider of ['rds', 'ublk']) {
    const manifests = made(`provider=${provider}`)
    t.deepEqual(verbsOf(manifests, 'storage.k8s.io', 'volumeattributesclasses'), ['get', 'list', 'watch'], provider)
    t.deepEqual(verbsOf(manifests, 'snapshot.storage.k8s.io', 'volumesnapshots'), ['get', 'list', 'update', 'watch'], provider)
  }
})

test.serial('rds: nodes wait for a router that is gone for as long as they are told', (t) => {
  const argsOf = (manifests: Manifest[]): string[] => podOf(manifests.find(({ kind }) => kind === 'DaemonSet')!).containers[0]!.args
  t.true(argsOf(made('rds.ctrlLossTmo=-1')).includes('--ctrl-loss-tmo=-1'))
  t.true(argsOf(made()).includes('--ctrl-loss-tmo=600'))
  t.false(argsOf(made('provider=ublk')).some((argument) => argument.startsWith('--ctrl-loss-tmo')))
})

test.serial('rds: the driver takes the configuration that the chart writes', (t) => {
  const configMap = made('rds.overcommit=true').find(({ kind }) => kind === 'ConfigMap') as unknown as { data: Record<string, string> }
  const { rds } = parse(configMap.data['config.yaml']!) as { rds: Record<string, unknown> }
  t.like(checkedConfig(rds), { address: 'router.example.org', port: 22, fence: 'allow-host-name', overcommit: true })
})

test.serial('rds: the fence needs attaching and its sidecar; without it there is neither', (t) => {
  const attaches = (manifests: Manifest[]): [unknown, boolean] => [
    (manifests.find(({ kind }) => kind === 'CSIDriver') as unknown as { spec: { attachRequired: boolean } }).spec.attachRequired,
    podOf(manifests.find(({ kind }) => kind === 'Deployment')!).containers.some(({ name }) => name === 'attacher'),
  ]
  t.deepEqual(attaches(made()), [true, true])
  t.deepEqual(attaches(made('rds.fence=off')), [false, false])
})

test.serial('ublk: each node provisions for itself, and the daemon is never rolled by itself', (t) => {
  const manifests = made('provider=ublk')
  t.false(manifests.some(({ kind }) => kind === 'Deployment'))
  const [node, daemon] = ['it-node', 'it-daemon'].map(
    (name) => manifests.find(({ kind, metadata }) => kind === 'DaemonSet' && metadata.name === name)!,
  )
  t.true(
    podOf(node!)
      .containers.find(({ name }) => name === 'provisioner')!
      .args.includes('--node-deployment'),
  )
  t.deepEqual((daemon as unknown as { spec: { updateStrategy: unknown } }).spec.updateStrategy, { type: 'OnDelete' })
  t.true(podOf(daemon!).containers[0]!.args.includes('--mode=daemon'))
})

/** How the first container of a pod sees a path of its node. */
function seen(pod: Pod, path: string): Omit<Container['volumeMounts'][number], 'name'> | undefined {
  const { name } = pod.volumes.find(({ hostPath }) => hostPath?.path === path) ?? {}
  const { name: _, ...mount } = pod.containers[0]!.volumeMounts.find((each) => each.name === name) ?? { name: '', mountPath: '' }
  return mount.mountPath === '' ? undefined : mount
}
const podNamed = (manifests: Manifest[], wanted: string): Pod =>
  podOf(manifests.find(({ kind, metadata }) => kind === 'DaemonSet' && metadata.name === wanted)!)

test.serial('who loads a module of the kernel sees the modules of its node', (t) => {
  const modules = { mountPath: '/lib/modules', readOnly: true }
  t.deepEqual(seen(podNamed(made(), 'it-node'), '/lib/modules'), modules)
  t.deepEqual(seen(podNamed(made('provider=ublk'), 'it-daemon'), '/lib/modules'), modules)
})

test.serial('ublk: the daemon sees what the node mounts, also later, and mounts nothing there itself', (t) => {
  for (const directory of ['/var/lib/kubelet', '/var/lib/k0s/kubelet']) {
    const daemon = podNamed(made('provider=ublk', `kubeletDirectory=${directory}`), 'it-daemon')
    t.deepEqual(seen(daemon, directory), { mountPath: directory, mountPropagation: 'HostToContainer' })
  }
})

test.serial('who claims a socket or a pool claims it among all of the node', (t) => {
  for (const provider of ['rds', 'ublk']) {
    const pods = made(`provider=${provider}`).filter(({ kind }) => kind === 'DaemonSet')
    t.is(pods.length, provider === 'rds' ? 1 : 2)
    for (const pod of pods) t.true(podOf(pod).hostNetwork, pod.metadata.name)
  }
})

test.serial('volumes wait for their first consumer, with either provider', (t) => {
  for (const provider of ['rds', 'ublk']) {
    const storageClass = made(`provider=${provider}`).find(({ kind }) => kind === 'StorageClass')!
    t.is(storageClass.volumeBindingMode, 'WaitForFirstConsumer')
    t.is(storageClass.provisioner, `${provider}.csi.ublk.io`)
  }
})

test.serial('the plain manifests are what the chart makes', (t) => {
  const check = run('manifests', ['--check'])
  t.is(check.status, 0, check.stdout + check.stderr)
})
