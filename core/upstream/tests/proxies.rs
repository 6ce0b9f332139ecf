//! Proxies: absolute form, tunnels, exceptions, refusals.

use super::*;

fn through(proxy: &Peer, no: Option<&str>) -> Client {
    let url = format!("http://user:p%40ss@{}", proxy.addr);
    Client::new(&ProxyConfig { all: Some(url), no: no.map(str::to_owned), ..ProxyConfig::default() })
}

/// `user:p@ss`.
const CREDENTIALS: &str = "proxy-authorization: Basic dXNlcjpwQHNz\r\n";

#[tokio::test]
async fn cleartext_calls_go_in_absolute_form_with_the_proxys_credentials() {
    let proxy = peer(|mut talk, _| async move {
        while let Some(request) = talk.request().await {
            talk.answer(&request).await;
        }
    })
    .await;
    let client = through(&proxy, None);
    for _ in 0..2 {
        let seen = whole(&client, call("http://models.example/v1/chat?x=1")).await.unwrap();
        assert!(seen.starts_with("POST http://models.example/v1/chat?x=1 HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("host: models.example\r\n"), "{seen}");
        assert!(seen.contains(CREDENTIALS), "{seen}");
    }
    assert_eq!(proxy.count(), 1);
}

#[tokio::test]
async fn tls_goes_through_a_tunnel_and_the_target_sees_no_credentials() {
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = heads.clone();
    let proxy = peer(move |mut talk, _| {
        let seen = seen.clone();
        async move {
            let head = talk.request().await.unwrap();
            let target = head.split(' ').nth(1).unwrap().to_owned();
            seen.lock().unwrap().push(head);
            let mut onward = TcpStream::connect(target.replace("localhost", "127.0.0.1")).await.unwrap();
            talk.say("HTTP/1.1 200 Connection established\r\n\r\n").await;
            let _ = tokio::io::copy_bidirectional(&mut talk.0, &mut onward).await;
        }
    })
    .await;
    let upstream = super::secure::echo_peer().await;
    let out = super::secure::tls_call(&upstream, Some(false));
    let request = whole(&through(&proxy, None), out).await.unwrap();
    assert!(!request.contains("proxy-authorization"), "{request}");
    let heads = heads.lock().unwrap();
    assert!(heads[0].starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", upstream.addr.port())), "{heads:?}");
    assert!(heads[0].contains(CREDENTIALS), "{heads:?}");
}

#[tokio::test]
async fn a_refused_tunnel_names_the_proxy_and_keeps_its_password() {
    for (status, expected) in [("407 Proxy Authentication Required", "user and password"), ("403 Forbidden", "403")] {
        let proxy = peer(move |mut talk, _| async move {
            talk.request().await;
            talk.say(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await;
        })
        .await;
        let error = whole(&through(&proxy, None), call("https://models.example/v1")).await.unwrap_err();
        assert_eq!(error.kind, Kind::Upstream);
        assert!(error.message.contains(expected) && error.message.contains("the proxy 127.0.0.1"), "{error}");
        assert!(!error.message.contains("p@ss") && !error.message.contains("p%40ss"), "{error}");
    }
}

#[tokio::test]
async fn exceptions_go_straight_to_their_host() {
    let proxy = peer(|mut talk, _| async move { talk.answer("proxy").await }).await;
    let direct = peer(|mut talk, _| async move {
        talk.request().await;
        talk.answer("direct").await;
    })
    .await;
    assert_eq!(whole(&through(&proxy, Some("127.0.0.1")), call(direct.url())).await.unwrap(), "direct");
    assert_eq!(proxy.count(), 0);
}

#[tokio::test]
async fn inner_addresses_are_refused_before_the_proxy_is_asked() {
    let proxy = peer(|mut talk, _| async move { talk.answer("proxy").await }).await;
    let client = through(&proxy, None);
    for host in ["169.254.169.254", "127.0.0.1", "localhost", "[::1]"] {
        let mut out = call(format!("http://{host}/latest/meta-data"));
        out.egress = Egress::default();
        assert_eq!(whole(&client, out).await.unwrap_err().code(), "egress_refused", "{host}");
    }
    assert_eq!(proxy.count(), 0);
}

#[test]
fn the_configuration_shows_no_password() {
    let config = ProxyConfig { all: Some("http://user:hunter2@proxy".into()), ..ProxyConfig::default() };
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[tokio::test]
async fn the_machine_is_asked_directly_who_it_is() {
    let answering = |mut talk: Talk, _| async move {
        while let Some(request) = talk.request().await {
            talk.answer(&request).await;
        }
    };
    let (proxy, machine) = (peer(answering).await, peer(answering).await);
    let mut out = call(format!("http://{}/latest", machine.addr));
    out.egress = Egress::of_machine("127.0.0.1");
    whole(&through(&proxy, None), out).await.unwrap();
    assert_eq!((proxy.count(), machine.count()), (0, 1));
}
