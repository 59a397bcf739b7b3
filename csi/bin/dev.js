#!/usr/bin/env node
// The program `ublk-csi` from its TypeScript sources, for work on it. Not published.
import { main } from '../src/main.ts'

await main()
