import { readFileSync } from 'node:fs'
import type { GetPluginInfoResponse } from '../generated/csi.ts'
import { driverName } from '../names.ts'
import type { Plugin } from '../plugin.ts'

/** Of package.json, which stands above both src and dist. */
export const VERSION: string = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version

export async function getPluginInfo(plugin: Plugin): Promise<GetPluginInfoResponse> {
  return { name: driverName(plugin.provider), vendorVersion: VERSION, manifest: {} }
}
