//! TLS: both protocols by ALPN, certificates that change on disk, clients that must show one.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// (certificate, key) in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.0).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

fn write(dir: &Path, (cert, key): &(String, String)) -> config::Tls {
    std::fs::write(dir.join("cert.pem"), cert).unwrap();
    std::fs::write(dir.join("key.pem"), key).unwrap();
    config::Tls { cert: dir.join("cert.pem"), key: dir.join("key.pem"), client_ca: None }
}

fn client(authority: &Authority, identity: Option<&(String, String)>, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Arc::new(config).into()
}

async fn connect(addr: SocketAddr, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(addr).await?;
    soon(connector.connect(ServerName::try_from("gateway.test").unwrap(), socket)).await
}

async fn ask(addr: SocketAddr, connector: &TlsConnector) -> std::io::Result<String> {
    let mut stream = connect(addr, connector).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await?;
    Ok(answer)
}

#[tokio::test]
async fn alpn_chooses_between_http1_and_http2() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let tls = write(dir.path(), &authority.issue("gateway.test"));
    let server =
        start(config::Server { tls: Some(tls), ..quick() }, |peer: Peer, request: Request<Incoming>| async move {
            Response::new(format!("{:?} tls={}", request.version(), peer.tls).into())
        });
    let answer = ask(server.addr, &client(&authority, None, &[b"http/1.1"])).await.unwrap();
    assert!(answer.ends_with("HTTP/1.1 tls=true"), "{answer}");
    let stream = connect(server.addr, &client(&authority, None, &[b"h2", b"http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection): (H2, _) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let body = sender.send_request(get("/")).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "HTTP/2.0 tls=true");
}

#[tokio::test]
async fn a_new_certificate_is_taken_and_a_bad_one_leaves_the_old() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let files = write(dir.path(), &authority.issue("gateway.test"));
    let certificates = Certificates::load(&files).unwrap();
    let first = certificates.current();
    assert!(!certificates.reload().unwrap(), "nothing changed");

    std::fs::write(&files.cert, "rubbish").unwrap();
    let error = certificates.reload().unwrap_err();
    assert!(error.message.contains("cert.pem"), "{error}");
    assert!(certificates.trouble().is_some_and(|trouble| trouble.contains("cert.pem")));
    assert!(certificates.reload().is_err(), "it is as bad as it was");
    assert!(Arc::ptr_eq(&first, &certificates.current()));

    // A certificate that does not belong to the key.
    std::fs::write(&files.cert, authority.issue("gateway.test").0).unwrap();
    assert!(certificates.reload().unwrap_err().message.contains("key.pem"));
    assert!(Arc::ptr_eq(&first, &certificates.current()));

    write(dir.path(), &authority.issue("gateway.test"));
    assert!(certificates.reload().unwrap());
    assert!(!Arc::ptr_eq(&first, &certificates.current()));
    assert_eq!(certificates.trouble(), None);

    // Away, and the same again.
    let key = std::fs::read(&files.key).unwrap();
    std::fs::remove_file(&files.key).unwrap();
    assert!(certificates.reload().is_err() && certificates.trouble().is_some());
    std::fs::write(&files.key, key).unwrap();
    certificates.reload().unwrap();
    assert_eq!(certificates.trouble(), None);
    assert!(!certificates.reload().unwrap(), "nothing changed");
}

#[tokio::test]
async fn a_running_listener_shows_the_new_certificate() {
    let (old, new, dir) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let tls = write(dir.path(), &old.issue("gateway.test"));
    let server = start(config::Server { tls: Some(tls), ..quick() }, |_, _| async { Response::new("hi".into()) });
    let knows_new = client(&new, None, &[b"http/1.1"]);
    assert!(ask(server.addr, &knows_new).await.is_err());
    assert!(ask(server.addr, &client(&old, None, &[])).await.is_ok());
    write(dir.path(), &new.issue("gateway.test"));
    soon(async {
        while ask(server.addr, &knows_new).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_without_the_asked_certificate_is_refused() {
    let (authority, clients, dir) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let mut tls = write(dir.path(), &authority.issue("gateway.test"));
    std::fs::write(dir.path().join("ca.pem"), clients.pem()).unwrap();
    tls.client_ca = Some(dir.path().join("ca.pem"));
    let server = start(config::Server { tls: Some(tls), ..quick() }, |peer: Peer, _| async move {
        Response::new(format!("{}", peer.client_cert.is_some()).into())
    });
    let known = clients.issue("alice");
    let answer = ask(server.addr, &client(&authority, Some(&known), &[])).await.unwrap();
    assert!(answer.ends_with("true"), "{answer}");
    assert!(ask(server.addr, &client(&authority, None, &[])).await.is_err());
    let stranger = authority.issue("mallory");
    assert!(ask(server.addr, &client(&authority, Some(&stranger), &[])).await.is_err());
}

#[tokio::test]
async fn missing_files_are_named() {
    let tls = config::Tls { cert: "/nowhere/cert.pem".into(), key: "/nowhere/key.pem".into(), client_ca: None };
    assert!(Certificates::load(&tls).unwrap_err().message.contains("/nowhere/cert.pem"));
}
