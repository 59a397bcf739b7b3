import { constants } from 'node:os'
import { inspect } from 'node:util'
import test from 'ava'
import { abortError, ERROR_CODES, errnoOf, fromNative, invalidType, messageOf, UblkError, unwrap } from '../../src/errors.ts'
import { fromPlainError, toPlainError } from '../../src/messages.ts'
import type { NativeError } from '../../src/native.ts'

const busy: NativeError = {
  code: 'ERR_UBLK_BUSY',
  message: 'device 3 is open',
  hint: 'Unmount it.',
  errno: -16,
  syscall: 'DEL_DEV',
  deviceId: 3,
}

test('a native error keeps all it says', (t) => {
  const error = fromNative(busy)
  t.true(error instanceof UblkError && error instanceof Error)
  t.like(error, { ...busy, name: 'UblkError' })
  t.like(fromNative({ ...busy, errno: null, syscall: null, deviceId: null }), { errno: undefined, syscall: undefined, deviceId: undefined })
  t.regex(inspect(error), /^UblkError: device 3 is open/)
})

test('a code that this package does not know is ERR_UBLK_KERNEL', (t) => {
  t.is(fromNative({ ...busy, code: 'ERR_UBLK_NEW' }).code, 'ERR_UBLK_KERNEL')
  t.is(fromNative({ ...busy, code: 'toString' }).code, 'ERR_UBLK_KERNEL')
})

test('unwrap gives the value or throws the error', (t) => {
  t.is(unwrap({ value: 5, error: null }), 5)
  t.is(unwrap({ value: null, error: null }), null)
  t.throws(() => unwrap({ value: null, error: busy }), { code: 'ERR_UBLK_BUSY' })
})

test('every code has a meaning', (t) => {
  for (const [code, meaning] of Object.entries(ERROR_CODES)) {
    t.regex(code, /^ERR_UBLK_[A-Z_]+$/)
    t.true(meaning.length > 20)
  }
})

test('an AbortError carries the reason of its signal', (t) => {
  const error = abortError(AbortSignal.abort('enough'), 'closing device 1')
  t.like(error, { name: 'AbortError', code: 'ABORT_ERR', cause: 'enough', message: 'closing device 1 was aborted' })
})

test('misuse shows the value in a few words', (t) => {
  const shown = (value: unknown): string => invalidType('x', 'y', value).message.replace('x must be y, got ', '')
  t.deepEqual([null, 5, 5n, 'a', [], {}, new Map(), () => {}, Object.create(null)].map(shown), [
    'null',
    '5',
    '5n',
    "'a'",
    'an array',
    'an instance of Object',
    'an instance of Map',
    'function ',
    'an instance of Object',
  ])
  t.true(shown('x'.repeat(1000)).length < 80)
  t.is(invalidType('x', 'y', undefined).message, 'x must be y')
})

test('every errno name of this platform maps to its number', (t) => {
  for (const [code, errno] of Object.entries(constants.errno)) {
    t.is(errnoOf({ code }), -errno)
    t.is(errnoOf({ errno: -errno }), -errno)
  }
})

test('messageOf survives whatever was thrown', (t) => {
  const trap = new Proxy(
    {},
    {
      get: () => {
        throw new Error('no')
      },
      getPrototypeOf: () => {
        throw new Error('no')
      },
    },
  )
  t.is(messageOf(trap), 'an error that cannot be shown')
  t.is(messageOf(new Error('x')), 'x')
  t.is(messageOf({ a: 1 }), '{ a: 1 }')
})

test('an error crosses to another thread with code, errno and stack', (t) => {
  const error = Object.assign(new TypeError('bad'), { code: 'EACCES', errno: -13 })
  const back = fromPlainError(structuredClone(toPlainError(error)))
  t.like(back, { name: 'TypeError', message: 'bad', code: 'EACCES', errno: -13 })
  t.is(back.stack, error.stack)
  t.is(fromPlainError(toPlainError('text')).message, "'text'")
})
