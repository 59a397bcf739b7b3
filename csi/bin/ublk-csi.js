#!/usr/bin/env node
// The program `ublk-csi`, as it is published: compiled.
import { main } from '../dist/main.js'

await main()
