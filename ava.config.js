// Sources and tests run as they are, by the type stripping of Node 24 and 26 (and 22.18 and later).
export default {
  extensions: ['ts'],
  files: ['scripts/**/*.test.ts', 'test/**/*.test.ts', 'cli/test/**/*.test.ts', 'csi/test/**/*.test.ts'],
  workerThreads: false,
  timeout: '4m',
}
