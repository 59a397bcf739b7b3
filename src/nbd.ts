/**
 * The URI of an NBD server, and whom to trust there: from what was given to the native target's spec.
 *
 * Thread: any. Nothing is read or connected to here. The URI is that of the NBD project (doc/uri.md), its parameters for TLS are libnbd's.
 */
import { resolve } from 'node:path'
import process from 'node:process'
import { invalidType, invalidValue } from './errors.ts'
import type { NbdSpec, NbdTlsSpec } from './native.ts'
import { checkPath } from './path.ts'

/** Whom to trust, and who this client is. Files are PEM; they are read again for each connection. */
export interface NbdTlsOptions {
  /**
   * Directory with `ca-cert.pem`, and where they exist `ca-crl.pem`, `client-cert.pem` and `client-key.pem`; what is named below goes before it.
   * In the URI: `tls-certificates`.
   */
  certificates?: string | URL
  /** Authorities that may have signed the server's certificate. Default, without `certificates`: those that this system trusts. */
  ca?: string | URL
  /** Certificates that they have revoked. */
  crl?: string | URL
  /** This client's certificate, for servers that ask, and with it those that lead to its authority. */
  cert?: string | URL
  /** The key of `cert`. */
  key?: string | URL
  /** Name or address in the server's certificate. Default the host of the URI; `localhost` for a Unix socket. In the URI: `tls-hostname`. */
  serverName?: string
  /** False takes anybody for the server, which a warning of the process says. In the URI: `tls-verify-peer=false`. Default true. */
  verifyPeer?: boolean
}

/** Where a server is. TLS options are for `nbds:` and `nbds+unix:` only, which never go on without TLS; they go before those in the URI. */
export function nbdServer(
  uri: string | URL,
  tls: NbdTlsOptions | undefined,
): Omit<NbdSpec, 'patienceMs' | 'requestTimeoutMs' | 'deadlineMs'> {
  if (typeof uri !== 'string' && !(uri instanceof URL)) throw invalidType('nbd uri', FORMS, uri)
  const url = URL.parse(String(uri))
  const scheme = SCHEMES[url?.protocol ?? '']
  if (url === null || scheme === undefined) throw invalidValue('nbd uri', FORMS, uri)
  const parameters = new URLSearchParams(url.search.replaceAll('+', '%2B')) // a plus is no blank in these
  const ofUri = tlsParameters(parameters, uri)
  if (!scheme.hasTls && ofUri !== undefined) throw invalidValue('nbd uri', 'nbds:// or nbds+unix:// where it has parameters of TLS', uri)
  if (!scheme.hasTls && tls !== undefined) throw invalidValue('nbd.tls', 'left out unless the URI is nbds:// or nbds+unix://', tls)
  const common = {
    exportName: decodeURIComponent(url.pathname.replace(/^\//, '')),
    tls: scheme.hasTls ? checkTls({ ...ofUri, ...checkObject(tls) }) : null,
  }
  if (common.tls?.verifyPeer === false) process.emitWarning(`anybody can be the server of ${url}: it is not verified`, 'UblkWarning')
  if (scheme.isUnix) {
    const socket = parameters.get('socket')
    if (!socket || url.host !== '') throw invalidValue('nbd uri', `${FORMS}, with a socket and without a host`, uri)
    return { host: null, port: 0, socket: resolve(socket), ...common }
  }
  if (url.hostname === '' || url.username !== '') throw invalidValue('nbd uri', FORMS, uri)
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  return { host, port: url.port === '' ? DEFAULT_PORT : Number(url.port), socket: null, ...common }
}

const FORMS = 'nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH, or nbds:// and nbds+unix:// for TLS'

const DEFAULT_PORT = 10809

const SCHEMES: Record<string, { hasTls: boolean; isUnix: boolean }> = {
  'nbd:': { hasTls: false, isUnix: false },
  'nbds:': { hasTls: true, isUnix: false },
  'nbd+unix:': { hasTls: false, isUnix: true },
  'nbds+unix:': { hasTls: true, isUnix: true },
}

/** Others are ignored, as the format of the URI wants it; but not those of TLS: a slip of the pen must not change who is trusted. */
function tlsParameters(parameters: URLSearchParams, uri: string | URL): NbdTlsOptions | undefined {
  const given = [...parameters].filter(([name]) => name.startsWith('tls-'))
  const options: NbdTlsOptions = {}
  for (const [name, value] of given) {
    if (name === 'tls-certificates') options.certificates = value
    else if (name === 'tls-hostname') options.serverName = value
    else if (name === 'tls-verify-peer' && /^(?:true|false)$/.test(value)) options.verifyPeer = value === 'true'
    else {
      const known = 'of tls-certificates=DIR, tls-hostname=NAME and tls-verify-peer=true|false (there are no pre-shared keys)'
      throw invalidValue(`nbd uri's ${name}`, known, uri)
    }
  }
  return given.length > 0 ? options : undefined
}

function checkTls(given: NbdTlsOptions): NbdTlsSpec {
  const { serverName = null, verifyPeer = true } = given
  const file = (name: keyof typeof given & ('certificates' | 'ca' | 'crl' | 'cert' | 'key')): string | null => {
    const path = given[name]
    return path === undefined
      ? null
      : checkPath(`nbd.tls.${name}`, path, name === 'certificates' ? 'the path of a directory' : 'the path of a file')
  }
  if (typeof verifyPeer !== 'boolean') throw invalidType('nbd.tls.verifyPeer', 'a boolean', verifyPeer)
  if (serverName !== null && typeof serverName !== 'string') throw invalidType('nbd.tls.serverName', 'a string', serverName)
  if (serverName === '') throw invalidValue('nbd.tls.serverName', 'the name in a certificate', serverName)
  const [cert, key] = [file('cert'), file('key')]
  if ((cert === null) !== (key === null)) throw invalidValue('nbd.tls', 'with both cert and key, or neither', given)
  return { certificates: file('certificates'), ca: file('ca'), crl: file('crl'), cert, key, serverName, verifyPeer }
}

function checkObject(tls: NbdTlsOptions | undefined): NbdTlsOptions {
  if (tls !== undefined && (typeof tls !== 'object' || tls === null)) throw invalidType('nbd.tls', 'an object', tls)
  return tls ?? {}
}
