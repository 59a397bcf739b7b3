/**
 * The native addon as TypeScript sees it: the mirror of crates/ublk-node/src, same names, same order.
 *
 * Nothing here is public. Absent is `null`. Sizes and offsets are bytes as Numbers, exact to 2^53. An expected
 * failure is an `Outcome` with `error` set, never a throw; a throw is a bug. All range checks are done before a call.
 */

/** Answer of a native call that can fail: exactly one side is not null (`value` may be null for calls without one). */
export type Outcome<T> = { value: T; error: null } | { value: null; error: NativeError }

/** Mirror of `NativeError` in crates/ublk-node/src/error.rs. */
export interface NativeError {
  /** Stable code, `ERR_UBLK_…`. */
  code: string
  message: string
  hint: string
  /** Negative Linux errno, or null. */
  errno: number | null
  /** Kernel command or system call that failed, such as `START_DEV` or `open`. */
  syscall: string | null
  deviceId: number | null
}

/** A native target. Mirror of `TargetSpec` in crates/ublk-node/src/target.rs. */
export interface TargetSpec {
  kind: 'null' | 'mem' | 'file' | 'stripe' | 'mirror' | 'zoned' | 'nbd' | 'fault'
  /** Bytes of the device; null for targets over files means what those have. */
  sizeBytes: number | null
  /** Files or block devices: one for a file, none or one for a zoned target, the legs of a stripe or a mirror. */
  paths: string[]
  /** O_DIRECT. */
  direct: boolean
  /** Make the files that are missing, grow those that are too short for `sizeBytes`; for a mirror, make legs of files that are none. */
  create: boolean
  readOnly: boolean
  /** Of a stripe: a power of two from 4096 on. */
  chunkBytes: number | null
  /** The target below a fault: one; none for the others. */
  over: TargetSpec[]
  /** Of a fault. */
  faults: FaultSpec | null
  /** Of a zoned target. */
  zoned: ZonedSpec | null
  /** Of an nbd target. */
  nbd: NbdSpec | null
}

/** Zones of a zoned target. Mirror of `ZonedSpec` in crates/ublk-node/src/target.rs. */
export interface ZonedSpec {
  zoneBytes: number
  /** Null: all of a zone. */
  zoneCapacityBytes: number | null
  conventionalZones: number
  /** 0: no limit. */
  maxOpenZones: number
  maxActiveZones: number
}

/** Which export of which NBD server. Mirror of `NbdSpec` in crates/ublk-node/src/target.rs. */
export interface NbdSpec {
  /** Name or address, for TCP; null with a socket. */
  host: string | null
  /** For TCP. */
  port: number
  /** Path of a Unix socket, or null. */
  socket: string | null
  exportName: string
  /** How long requests wait for a lost connection. */
  patienceMs: number
  /** How long the server may take for an answer; null waits without end. */
  requestTimeoutMs: number | null
  /** How long a request may take in all; null where nobody counts. */
  deadlineMs: number | null
  /** Null speaks none. */
  tls: NbdTlsSpec | null
}

/** Whom to trust, and who this client is. Mirror of `NbdTlsSpec` in crates/ublk-node/src/target.rs. */
export interface NbdTlsSpec {
  /** Directory of the files that are not named by themselves; absolute, as all these paths. */
  certificates: string | null
  ca: string | null
  crl: string | null
  cert: string | null
  key: string | null
  /** Null is the host, or `localhost`. */
  serverName: string | null
  verifyPeer: boolean
}

/** What a fault does. Mirror of `FaultSpec` in crates/ublk-node/src/target.rs. */
export interface FaultSpec {
  /** Of every request. */
  delayMs: number
  /** Share of the requests that fail, 0 to 1. */
  errorRate: number
  /** Operations that may fail; empty means all. */
  errorOps: NativeOpStats['op'][]
  /** First byte of the range that may fail, and the first after it; null without one. */
  errorBegin: number | null
  errorEnd: number | null
  /** Share of the writes that are torn, 0 to 1. */
  tornWriteRate: number
  /** Decides which. */
  seed: number
  /** Null does not die. */
  dieAt: 'fetch' | 'commit' | null
  /** Number of the request at which it dies, from 1. */
  dieAfter: number
}

/** Integrity data. Mirror of `IntegritySpec` in crates/ublk-node/src/target.rs. */
export interface IntegritySpec {
  metadataBytes: number
  checksum: 'none' | 't10dif' | 'ip' | 'nvme'
  piOffsetBytes: number
  tagBytes: number
  refTag: boolean
  capable: boolean
}

/** A file of memory that users share. Mirror of `SharedMemorySpec` in crates/ublk-node/src/request_memory.rs. */
export interface SharedMemorySpec {
  /** Absolute. */
  path: string
  /** Mapped for reading alone. */
  readOnly: boolean
  /** Of a device that is recovered: the driver's number, and which file it was. Else null. */
  number: number | null
  fileId: string | null
}

/** One that they share now. Mirror of `NativeSharedMemory` in crates/ublk-node/src/request_memory.rs. */
export interface NativeSharedMemory {
  path: string
  readOnly: boolean
  sizeBytes: number
  /** The driver's. */
  number: number
  /** Device and inode. */
  fileId: string
}

/** Shape of the memory of requests. Mirror of `SegmentSpec` in crates/ublk-node/src/request_memory.rs. */
export interface SegmentSpec {
  maxCount: number
  maxBytes: number
  boundaryBytes: number
}

/** Mirror of `DeviceSpec` in crates/ublk-node/src/device.rs. */
export interface DeviceSpec {
  /** Wanted N of /dev/ublkbN; null lets the kernel choose. */
  id: number | null
  queues: number
  depth: number
  maxIoBytes: number
  /** Device size; null takes the target's. */
  sizeBytes: number | null
  /** Logical block size; null takes the target's. */
  logicalBlockBytes: number | null
  /** The larger of this, the target's and the logical block size; null is none. */
  physicalBlockBytes: number | null
  readOnly: boolean
  rotational: boolean
  /** The backend answers FLUSH: the kernel sends it. Taken from the target when there is one. */
  volatileCache: boolean
  fua: boolean
  discard: boolean
  writeZeroes: boolean
  recovery: 'off' | 'requeue' | 'reissue' | 'fail-io'
  dataPath: 'auto' | 'copy' | 'get-data' | 'user-copy' | 'zero-copy' | 'auto-zero-copy' | 'shmem'
  zeroCopyFallback: 'off' | 'on' | 'always'
  /** Files of memory that users share, for `shmem`. */
  sharedMemory: SharedMemorySpec[]
  /** Threads of a native target; null is one per queue. */
  threads: number | null
  /** Each of them serves some tags of every queue. */
  perIo: boolean
  batch: boolean
  fixedFiles: boolean
  /** Null is where it keeps somebody waiting not to. */
  preempt: boolean | null
  partitionScan: boolean
  /** Alignment of the memory of requests; null is the driver's default, or in the zero-copy modes the target's. */
  dmaAlignBytes: number | null
  /** Its shape; null does not limit it. */
  segments: SegmentSpec | null
  /** Made as a user without CAP_SYS_ADMIN. */
  unprivileged: boolean
  /** Of a device with integrity data, else null. */
  integrity: IntegritySpec | null
  /** CPUs for the queue threads; null takes the kernel's queue affinity. */
  cpus: number[] | null
  /** Time a JS handler has for one request. */
  requestDeadlineMs: number
  /** Null for a JS backend. */
  target: TargetSpec | null
}

/** Mirror of `DeviceInfo` in crates/ublk-node/src/info.rs. */
export interface NativeDeviceInfo {
  id: number
  state: 'dead' | 'live' | 'quiesced' | 'fail_io'
  sizeBytes: number
  logicalBlockBytes: number
  physicalBlockBytes: number
  queues: number
  depth: number
  maxIoBytes: number
  /** Process that serves it, 0 when none. */
  pid: number
  readOnly: boolean
  volatileCache: boolean
  fua: boolean
  discard: boolean
  writeZeroes: boolean
  rotational: boolean
  /** Alignment of the memory of requests. */
  dmaAlignBytes: number
  segments: SegmentSpec
  zones: NativeZoneLimits | null
  integrity: IntegritySpec | null
  /** Major and minor number, such as `240:0`; of a block device that was not started yet null. */
  charNumber: string
  blockNumber: string | null
  /** Feature names without the UBLK_F_ prefix, lowest bit first. */
  flags: string[]
  ownerUid: number
  ownerGid: number
}

/** Zones of a device; 0 is no limit. Mirror of the same in crates/ublk-node/src/info.rs. */
export interface NativeZoneLimits {
  zoneBytes: number
  maxOpenZones: number
  maxActiveZones: number
  maxAppendBytes: number
}

/** One feature bit. Mirror of `FeatureInfo` in crates/ublk-node/src/info.rs. */
export interface NativeFeature {
  /** Bit as a hexadecimal number such as `0x1`. */
  bit: string
  /** Kernel name, such as `UBLK_F_SUPPORT_ZERO_COPY`. */
  name: string
  here: boolean
  /** First release of Linux with it, such as `6.15`. */
  since: string
}
export interface NativeFeatures {
  /** Mask from GET_FEATURES, hexadecimal. */
  mask: string
  flags: NativeFeature[]
}

/** Shared memory of one JS queue; both are made on the thread that owns the device. */
export interface QueueMemory {
  /** View over the whole slab SharedArrayBuffer. */
  slab: Uint8Array
  /** View over the whole control SharedArrayBuffer, as bytes. */
  control: Uint8Array
  /** Slots in the slab: depth + spares. */
  slots: number
}

/** Something that happened to a device while nobody was calling. */
export interface NativeEvent {
  /**
   * `queue-failed`: a queue went into fail mode (`error` says why); the device is being stopped.
   * `queue-stuck`: a worker's synchronous handler is past its deadline: terminate that worker.
   * `request-timeout`: a handler missed its deadline and the request was answered ETIMEDOUT.
   * `warning`: something that the target can live with (`error` says what): a leg of a mirror has failed, or is in sync again.
   * `ended`: the device stopped serving though nobody asked here (another process stopped or deleted it, or it failed);
   *          every queue of it is gone.
   */
  kind: 'queue-failed' | 'queue-stuck' | 'request-timeout' | 'warning' | 'ended'
  queue: number | null
  error: NativeError | null
}

/** Latency and counters of one operation, summed over the queues. Times are nanoseconds. */
export interface NativeOpStats {
  op: 'read' | 'write' | 'flush' | 'discard' | 'write_zeroes'
  requests: number
  bytes: number
  errors: number
  meanNs: number
  p50Ns: number
  p99Ns: number
  p999Ns: number
  maxNs: number
}
export interface NativeStats {
  ops: NativeOpStats[]
  inFlight: number
  /** io_uring_enter calls and completions reaped, for batching figures. */
  enters: number
  completions: number
  /** Of a mirror; empty for other targets. */
  legs: NativeLeg[]
}

/** One leg of a mirror. Mirror of `NativeLeg` in crates/ublk-node/src/stats.rs. */
export interface NativeLeg {
  path: string
  state: 'in-sync' | 'resyncing' | 'failed'
  /** Why it failed, else null. */
  error: string | null
  /** Bytes of the device that are done; null unless it is resyncing. */
  resyncedBytes: number | null
}

/** Mirror of `NativeDevice` in crates/ublk-node/src/device.rs. Lives on the thread that created it. */
export interface NativeDevice {
  readonly id: number
  /** Key by which `WorkerQueue` finds this device from another thread of the process. */
  readonly key: number
  /** What the driver granted when the device was added; `info` asks it anew. */
  readonly granted: NativeDeviceInfo
  readonly dataPath: string
  /**
   * Makes a stopped device ready to be served by JavaScript, with one memory per queue.
   * - backend on this thread: 'main'; `wake(queue)` is called when requests wait (at most one call outstanding per queue). The queue
   *   threads are running when it resolves;
   * - workers: 'worker'; then each worker makes a `WorkerQueue` and calls `fetch()`.
   */
  prepare(mode: 'main' | 'worker', memory: QueueMemory[], wake: ((queue: number) => void) | null): Promise<Outcome<null>>
  /**
   * START_DEV, or END_USER_RECOVERY; resolves when the block device is live. Starts the queue threads of a native target first; JavaScript's queues must be prepared.
   * On failure no queue is left.
   */
  start(): Promise<Outcome<null>>
  /** STOP_DEV, drain, close rings and char device. Workers must keep polling until their queue reports ended. Idempotent. */
  stop(): Promise<Outcome<null>>
  /** `stop`, then DEL_DEV; a device that waits for the next server is left to it. Idempotent. */
  close(): Promise<Outcome<null>>
  /** QUIESCE_DEV; the queues answer what they have and end. The device is the next server's then. Workers must keep polling. */
  quiesce(limitMs: number): Promise<Outcome<null>>
  /** UPDATE_SIZE, after a native target has made itself ready for it. */
  resize(sizeBytes: number): Promise<Outcome<null>>
  /** REG_BUF: a file of memory that its users share too. */
  shareMemory(memory: SharedMemorySpec): Promise<Outcome<null>>
  /** UNREG_BUF: one that they no longer share. */
  unshareMemory(path: string): Promise<Outcome<null>>
  /** What they share now. */
  sharedMemory(): Promise<Outcome<NativeSharedMemory[]>>
  info(): Promise<Outcome<NativeDeviceInfo>>
  stats(): NativeStats
  /**
   * Main mode: makes the function that wakes the owner of a queue's ring, for after completions were published while NATIVE_SLEEPING was 1.
   * A function of its own, because the call of a native method costs several times as much.
   */
  kicker(queue: number): () => number
  /** The queue's JS side is gone (worker exit): fail mode without JavaScript. */
  failQueue(queue: number, reason: string): void
  ref(): void
  unref(): void
}

/** One queue, owned by the calling worker thread. Mirror of `WorkerQueue` in crates/ublk-node/src/worker_queue.rs. */
export interface WorkerQueue {
  /** Opens the ring on this thread and fetches every tag. */
  fetch(): Outcome<QueueTurns>
  /** Event-loop mode: calls `callback` on this thread when `poll` has something to do. */
  watch(callback: () => void): void
  unwatch(): void
}

/** What serves a queue. Plain functions, because the call of a native method costs several times as much. */
export interface QueueTurns {
  /**
   * Blocking turn: takes published completions, commits them, waits for at least one request, publishes the batch.
   * @returns STATE: 1 serve the batch and call again; 3 ended, never call again. A device that fails is answered within: it returns 3 when done.
   */
  wait(): number
  /** The same without blocking: commits, takes what is there. */
  poll(): number
}

export interface NativeBinding {
  /** Version of the addon, equal to the package's. */
  version(): string
  features(): Promise<Outcome<NativeFeatures>>
  /** Every ublk device of this machine, lowest id first. */
  listDevices(): Promise<Outcome<NativeDeviceInfo[]>>
  deviceInfo(id: number): Promise<Outcome<NativeDeviceInfo>>
  queueAffinity(id: number, queue: number): Promise<Outcome<number[]>>
  /** STOP_DEV for a device of any process; `safe`: TRY_STOP_DEV, which refuses while it is open. */
  stopDevice(id: number, safe: boolean): Promise<Outcome<null>>
  /** QUIESCE_DEV for a device of any process; resolves when its server has let go. */
  quiesceDevice(id: number, limitMs: number): Promise<Outcome<null>>
  /** UPDATE_SIZE for a device of any process; its server is not asked. */
  resizeDevice(id: number, sizeBytes: number): Promise<Outcome<null>>
  /** STOP_DEV and DEL_DEV for a device of any process; `wait: false` uses DEL_DEV_ASYNC. */
  deleteDevice(id: number, wait: boolean): Promise<Outcome<null>>
  /**
   * ADD_DEV and SET_PARAMS; opens the target first. `onEvent` is called on this thread.
   * @param starts also does what `start` does, for native targets: one way to another thread and back instead of two
   */
  addDevice(spec: DeviceSpec, starts: boolean, onEvent: (event: NativeEvent) => void): Promise<Outcome<NativeDevice>>
  /**
   * Takes over a device whose server is gone. Of `spec` count the target, the CPUs and the deadline; the rest says what the device is.
   * If anything fails before it is live, the device waits for the next server.
   */
  recoverDevice(id: number, spec: DeviceSpec, starts: boolean, onEvent: (event: NativeEvent) => void): Promise<Outcome<NativeDevice>>
  /** Sends a datagram to a Unix socket: its path, or `@` and its name if it is abstract. */
  notify(address: string, state: string): Promise<Outcome<null>>
  /** Last resort at process exit, synchronous: fails, stops and deletes every device of this process within `limitMs`. */
  shutdown(limitMs: number): void
  /** memmove between views; several times faster than `Buffer#copy` out of shared memory. Ranges must have been checked. */
  copy(target: Uint8Array, targetOffset: number, source: Uint8Array, sourceOffset: number, length: number): void
  WorkerQueue: new (key: number, queue: number) => WorkerQueue
}
