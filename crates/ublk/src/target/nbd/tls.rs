//! TLS of a connection: whom to believe, who this client is, and the handshake.
//!
//! Files are read for each connection anew, so that a certificate that was renewed is used from the next one on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};

use super::socket::Socket;
use super::{Failure, NbdAddress};
use crate::error::words;

const ABOUT_FILES: &str = "Files are PEM. A directory of certificates has ca-cert.pem and may have ca-crl.pem, client-cert.pem and client-key.pem (`man nbdkit-tls` makes them).";
const ABOUT_TRUST: &str =
    "Name its authority with ?tls-certificates=DIR, and the name in its certificate with &tls-hostname=NAME.";
const ABOUT_CLIENT: &str = "Servers that verify their clients need client-cert.pem and client-key.pem in the directory of ?tls-certificates=DIR, from an authority that they trust.";
const ABOUT_VERSIONS: &str =
    "TLS 1.2 and 1.3 are spoken, with certificates; pre-shared keys and anonymous TLS are not.";

const NOT_THIS_CLIENT: &str = "it does not take this client's certificate, or wants one";

/// A connection that speaks TLS.
pub(super) type Session = StreamOwned<ClientConnection, Socket>;

/// How to make sure of a server, and of this client. Files are PEM, and read again for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdTls {
    /// Directory as libnbd and nbdkit have it: `ca-cert.pem`, and where they exist `ca-crl.pem`, `client-cert.pem` and `client-key.pem`.
    /// What is named below goes before it.
    pub certificates: Option<PathBuf>,
    /// Authorities that may have signed the server's certificate; without this and a directory, those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Certificates that they have taken back.
    pub crl: Option<PathBuf>,
    /// This client's certificate, with those that lead to its authority.
    pub cert: Option<PathBuf>,
    /// The key of it.
    pub key: Option<PathBuf>,
    /// Name or address in the server's certificate; None is the host that is connected to, or `localhost` over a Unix socket.
    pub server_name: Option<String>,
    /// Without, any certificate will do: nobody can listen, but anybody can be the server.
    pub verify_peer: bool,
}

impl Default for NbdTls {
    fn default() -> NbdTls {
        NbdTls { certificates: None, ca: None, crl: None, cert: None, key: None, server_name: None, verify_peer: true }
    }
}

impl NbdTls {
    /// This end of a session with the server at `address`.
    ///
    /// # Errors
    /// [`Failure::Tls`] naming the file that cannot be used.
    pub(super) fn client(&self, address: &NbdAddress) -> Result<ClientConnection, Failure> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| about(&error))?
            .dangerous() // what rustls calls it to bring a verifier, its own one with revocations included
            .with_custom_certificate_verifier(self.verifier(provider)?);
        let mut config = match self.identity()? {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| about(&error))?,
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        let name = match (&self.server_name, address) {
            (Some(name), _) => name,
            (None, NbdAddress::Tcp { host, .. }) => host,
            (None, NbdAddress::Unix { .. }) => "localhost",
        };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| failure(format!("a certificate cannot be for the name {name:?}"), ABOUT_TRUST))?;
        ClientConnection::new(Arc::new(config), name).map_err(|error| about(&error))
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, Failure> {
        if !self.verify_peer {
            return Ok(Arc::new(Unverified(provider)));
        }
        let mut roots = RootCertStore::empty();
        match self.file(&self.ca, "ca-cert.pem") {
            Some(path) => {
                for authority in read::<CertificateDer<'_>>(&path)? {
                    roots.add(authority).map_err(|error| unusable(&path, &error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let revoked = match self.optional_file(&self.crl, "ca-crl.pem") {
            Some(path) => read::<CertificateRevocationListDer<'_>>(&path)?,
            None => Vec::new(),
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(revoked)
            .allow_unknown_revocation_status() // of authorities without a list
            .build()
            .map_err(|error| failure(format!("TLS: there is nobody to trust ({error})"), ABOUT_TRUST))?;
        Ok(verifier)
    }

    /// Who this client is, if servers are told.
    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, Failure> {
        let cert = self.optional_file(&self.cert, "client-cert.pem");
        let key = self.optional_file(&self.key, "client-key.pem");
        let Some((cert, key)) = cert.zip(key) else { return Ok(None) };
        let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| bad_pem(&key, error))?;
        Ok(Some((read(&cert)?, secret)))
    }

    /// A file that must be there: as named, else of the directory if there is one.
    fn file(&self, named: &Option<PathBuf>, in_directory: &str) -> Option<PathBuf> {
        named.clone().or_else(|| Some(self.certificates.as_ref()?.join(in_directory)))
    }

    /// One that the directory need not have.
    fn optional_file(&self, named: &Option<PathBuf>, in_directory: &str) -> Option<PathBuf> {
        self.file(named, in_directory).filter(|path| named.is_some() || path.exists())
    }
}

/// Everything up to the first byte that is enciphered.
///
/// # Errors
/// [`Failure::Tls`] when one end does not believe the other; the connection's own errors.
pub(super) fn handshake(client: ClientConnection, socket: Socket) -> Result<Session, Failure> {
    let mut session = StreamOwned::new(client, socket);
    while session.conn.is_handshaking() {
        let step = session.conn.complete_io(&mut session.sock);
        step.map_err(|error| hung_up(error.into(), "it broke off the TLS handshake", ABOUT_VERSIONS))?;
    }
    Ok(session)
}

/// What the first exchange of a session came to. With TLS 1.3 a server looks at a client's certificate when the handshake is over for the
/// client, so that a refusal shows here, and often as nothing but the end.
pub(super) fn first_answer<T>(answer: Result<T, Failure>) -> Result<T, Failure> {
    answer.map_err(|failure| hung_up(failure, NOT_THIS_CLIENT, ABOUT_CLIENT))
}

fn hung_up(failure: Failure, what: &str, hint: &'static str) -> Failure {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match failure {
        Failure::Io(error) if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) => {
            Failure::Tls { problem: format!("{what} ({})", words(&error)), hint }
        }
        other => other,
    }
}

/// What TLS did not like, as a sentence about the server.
pub(super) fn about(error: &rustls::Error) -> Failure {
    use rustls::Error::{AlertReceived, InvalidCertificate, NoCertificatesPresented, PeerIncompatible};
    let (what, hint) = match error {
        InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            ("its certificate is from no authority that is trusted here", ABOUT_TRUST)
        }
        InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            ("its certificate is for another name", ABOUT_TRUST)
        }
        InvalidCertificate(CertificateError::Revoked) => ("its certificate has been revoked", ABOUT_TRUST),
        InvalidCertificate(_) | NoCertificatesPresented => ("its certificate is of no use", ABOUT_TRUST),
        AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
        ) => (NOT_THIS_CLIENT, ABOUT_CLIENT),
        AlertReceived(_) | PeerIncompatible(_) => ("TLS found nothing that both sides can do", ABOUT_VERSIONS),
        _ => ("TLS failed", ABOUT_VERSIONS),
    };
    failure(format!("{what} ({error})"), hint)
}

fn failure(problem: String, hint: &'static str) -> Failure {
    Failure::Tls { problem, hint }
}

/// All of a kind in a file.
fn read<T: PemObject>(path: &Path) -> Result<Vec<T>, Failure> {
    let all = T::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<T>, _>>);
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(bad_pem(path, pem::Error::NoItemsFound)),
        Err(error) => Err(bad_pem(path, error)),
    }
}

fn bad_pem(path: &Path, error: pem::Error) -> Failure {
    match error {
        pem::Error::Io(error) => unusable(path, &words(&error)),
        pem::Error::NoItemsFound => unusable(path, &"it has no such thing as it should"),
        other => unusable(path, &other),
    }
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    failure(format!("TLS: {}: {why}", path.display()), ABOUT_FILES)
}

/// Believes every server that has the key of the certificate that it shows.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
