//! TLS to upstreams: whom we believe, and what ALPN makes of it.

use std::sync::LazyLock;

use http::Response;
use hyper::{
    Request, body,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use super::*;

static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
});

pub fn authority_trust() -> Trust {
    Trust::with_authorities(AUTHORITY.pem().as_bytes()).unwrap()
}

fn acceptor(name: &str, alpn: &[&[u8]]) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &AUTHORITY).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.pem().as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Arc::new(config).into()
}

/// Answers with the request's version.
async fn tls_peer(name: &str, alpn: &[&[u8]]) -> Peer {
    let acceptor = acceptor(name, alpn);
    peer(move |talk, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(talk.0).await else { return };
            let service = service_fn(|request: Request<body::Incoming>| async move {
                Ok::<_, std::convert::Infallible>(Response::new(format!("{:?}", request.version())))
            });
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let io = TokioIo::new(stream);
            let _ = match is_http2 {
                true => http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
                false => http1::Builder::new().serve_connection(io, service).await,
            };
        }
    })
    .await
}

/// Answers with the request as it came.
pub async fn echo_peer() -> Peer {
    let acceptor = acceptor("localhost", &[b"http/1.1"]);
    peer(move |talk, _| {
        let acceptor = acceptor.clone();
        async move {
            let service = service_fn(|request: Request<body::Incoming>| async move {
                Ok::<_, std::convert::Infallible>(Response::new(format!("{:?}", request.headers())))
            });
            let stream = acceptor.accept(talk.0).await.unwrap();
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

pub fn tls_call(peer: &Peer, http2: Option<bool>) -> Outgoing {
    let url = format!("https://localhost:{}/v1", peer.addr.port());
    Outgoing { trust: Some(Arc::new(authority_trust())), http2, ..call(url) }
}

#[tokio::test]
async fn alpn_decides_unless_the_provider_does() {
    let both = tls_peer("localhost", &[b"h2", b"http/1.1"]).await;
    let client = Client::default();
    assert_eq!(whole(&client, tls_call(&both, None)).await.unwrap(), "HTTP/2.0");
    assert_eq!(whole(&client, tls_call(&both, Some(false))).await.unwrap(), "HTTP/1.1");
    assert_eq!(whole(&client, tls_call(&both, Some(true))).await.unwrap(), "HTTP/2.0");
    let old = tls_peer("localhost", &[b"http/1.1"]).await;
    assert_eq!(whole(&client, tls_call(&old, None)).await.unwrap(), "HTTP/1.1");
    assert!(whole(&client, tls_call(&old, Some(true))).await.is_err());
    let silent = tls_peer("localhost", &[]).await;
    assert_eq!(whole(&client, tls_call(&silent, None)).await.unwrap(), "HTTP/1.1");
}

#[tokio::test]
async fn a_first_burst_over_tls_shares_one_http2_connection() {
    let both = tls_peer("localhost", &[b"h2", b"http/1.1"]).await;
    let client = Client::default();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (client, out) = (client.clone(), tls_call(&both, None));
            tokio::spawn(async move { whole(&client, out).await.unwrap() })
        })
        .collect();
    for call in calls {
        assert_eq!(soon(call).await.unwrap(), "HTTP/2.0");
    }
    assert_eq!(both.count(), 1, "equal authorities are one, and the burst waits for its first connection");
}

#[tokio::test]
async fn unknown_authorities_and_wrong_names_are_refused() {
    let client = Client::default();
    let peer = tls_peer("localhost", &[b"http/1.1"]).await;
    let error = whole(&client, Outgoing { trust: None, ..tls_call(&peer, None) }).await.unwrap_err();
    // A machine without any authorities says that instead.
    assert!(error.message.contains("`ca` of the provider"), "{error}");
    let other = tls_peer("other.example", &[b"http/1.1"]).await;
    let error = whole(&client, tls_call(&other, None)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Upstream);
    assert!(error.message.starts_with("TLS with localhost"), "{error}");
}

#[test]
fn a_file_without_certificates_is_refused() {
    assert!(Trust::with_authorities(b"").is_err());
    assert!(Trust::with_authorities(b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n").is_err());
}
