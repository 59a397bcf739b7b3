import test from 'ava'
import { parseSize, type Size } from '../../src/size.ts'

for (const [size, bytes] of [
  [0, 0],
  [512, 512],
  [4096n, 4096],
  [2 ** 53 - 1, 2 ** 53 - 1],
  ['512', 512],
  ['512B', 512],
  [' 1 KiB ', 1024],
  ['1K', 1024],
  ['1k', 1024],
  ['64MiB', 64 * 2 ** 20],
  ['10G', 10 * 2 ** 30],
  ['10GiB', 10 * 2 ** 30],
  ['10gib', 10 * 2 ** 30],
  ['1.5G', 1.5 * 2 ** 30],
  ['0.5KiB', 512],
  ['2TiB', 2 * 2 ** 40],
  ['7PiB', 7 * 2 ** 50],
] as [Size, number][]) {
  test(`${typeof size} ${size} is ${bytes} bytes`, (t) => t.is(parseSize(size), bytes))
}

for (const [size, code] of [
  [-1, 'ERR_OUT_OF_RANGE'],
  [1.5, 'ERR_OUT_OF_RANGE'],
  [Number.NaN, 'ERR_OUT_OF_RANGE'],
  [Number.POSITIVE_INFINITY, 'ERR_OUT_OF_RANGE'],
  [2 ** 53, 'ERR_OUT_OF_RANGE'],
  [2n ** 60n, 'ERR_OUT_OF_RANGE'],
  ['8PiB', 'ERR_OUT_OF_RANGE'],
  ['', 'ERR_INVALID_ARG_VALUE'],
  ['-1', 'ERR_INVALID_ARG_VALUE'],
  ['10GB', 'ERR_INVALID_ARG_VALUE'],
  ['1e6', 'ERR_INVALID_ARG_VALUE'],
  ['1.G', 'ERR_INVALID_ARG_VALUE'],
  ['big', 'ERR_INVALID_ARG_VALUE'],
  ['1 EiB', 'ERR_INVALID_ARG_VALUE'],
  ['KiB', 'ERR_INVALID_ARG_VALUE'],
  [null, 'ERR_INVALID_ARG_TYPE'],
  [true, 'ERR_INVALID_ARG_TYPE'],
  [[1], 'ERR_INVALID_ARG_TYPE'],
] as [Size, string][]) {
  test(`${typeof size} ${String(size)} is refused with ${code} and the name of the option`, (t) => {
    const error = t.throws(() => parseSize(size, 'maxIoBytes'), { code })
    t.regex(error!.message, /^maxIoBytes must be /)
  })
}
