/** The flags of `add zoned`: what they are called, and the library's options that they become. */

import * as Flags from '@oclif/core/flags'
import type { ZonedOptions } from 'ublk'

export const zoneFlags = {
  'zone-size': Flags.string({ helpValue: 'SIZE', summary: 'for zoned: from one zone to the next, a power of two; default 64M' }),
  'zone-capacity': Flags.string({ helpValue: 'SIZE', summary: 'for zoned: what a sequential zone takes; default all of it' }),
  conventional: Flags.integer({ helpValue: 'COUNT', summary: 'for zoned: the first so many zones can be written anywhere; default 0' }),
  'max-open': Flags.integer({ helpValue: 'COUNT', summary: 'for zoned: most open zones; default 0, no limit' }),
  'max-active': Flags.integer({ helpValue: 'COUNT', summary: 'for zoned: most zones open or closed; default 0, no limit' }),
}

/** The values of `zoneFlags`, as parsed. */
export interface ZoneFlags {
  'zone-size'?: string | undefined
  'zone-capacity'?: string | undefined
  conventional?: number | undefined
  'max-open'?: number | undefined
  'max-active'?: number | undefined
}

export type Zones = Omit<ZonedOptions, 'size' | 'path'>

/** What the flags ask for. The rules are the library's. */
export function parseZones(flags: ZoneFlags): Zones {
  const { 'zone-size': zoneSize, 'zone-capacity': zoneCapacity, conventional, 'max-open': maxOpen, 'max-active': maxActive } = flags
  return {
    ...(zoneSize !== undefined && { zoneSize }),
    ...(zoneCapacity !== undefined && { zoneCapacity }),
    ...(conventional !== undefined && { conventionalZones: conventional }),
    ...(maxOpen !== undefined && { maxOpen }),
    ...(maxActive !== undefined && { maxActive }),
  }
}

/** The first of these flags that was given. */
export function firstZoneFlag(flags: ZoneFlags): string | undefined {
  return Object.keys(zoneFlags).find((name) => flags[name as keyof ZoneFlags] !== undefined)
}
