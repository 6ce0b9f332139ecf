//! Which addresses are the open internet, and that nothing else is dialled.

use std::net::{IpAddr, Ipv4Addr};

use super::{super::egress::AddressClass::*, *};

#[test]
fn addresses_fall_into_their_classes() {
    for (address, class) in [
        ("1.1.1.1", Global),
        ("8.8.8.8", Global),
        ("172.15.255.255", Global),
        ("172.32.0.0", Global),
        ("100.63.255.255", Global),
        ("100.128.0.0", Global),
        ("169.253.0.1", Global),
        ("192.167.255.255", Global),
        ("198.17.255.255", Global),
        ("223.255.255.255", Global),
        ("2606:4700:4700::1111", Global),
        ("2a00:1450:4001::1", Global),
        ("127.0.0.1", Loopback),
        ("127.255.255.254", Loopback),
        ("::1", Loopback),
        ("10.0.0.1", Private),
        ("172.16.0.1", Private),
        ("172.31.255.255", Private),
        ("192.168.1.1", Private),
        ("100.64.0.1", Shared),
        ("fd12:3456::1", UniqueLocal),
        ("169.254.1.1", LinkLocal),
        ("fe80::1", LinkLocal),
        ("169.254.169.254", Metadata),
        ("169.254.170.2", Metadata),
        ("100.100.100.200", Metadata),
        ("168.63.129.16", Metadata),
        ("fd00:ec2::254", Metadata),
        ("fd20:ce::254", Metadata),
        ("224.0.0.1", Multicast),
        ("239.255.255.255", Multicast),
        ("ff02::1", Multicast),
        ("0.0.0.0", Unspecified),
        ("::", Unspecified),
        ("0.1.2.3", Reserved),
        ("192.0.2.1", Reserved),
        ("198.18.0.1", Reserved),
        ("240.0.0.1", Reserved),
        ("255.255.255.255", Reserved),
        ("2001:db8::1", Reserved),
        ("2001::1", Reserved),
        ("2002:7f00:1::", Reserved),
        ("64:ff9b:1::7f00:1", Reserved),
        ("::127.0.0.1", Reserved),
        ("fec0::1", Reserved),
        ("100::1", Reserved),
        // IPv4 in disguise.
        ("::ffff:127.0.0.1", Loopback),
        ("::ffff:10.0.0.1", Private),
        ("::ffff:169.254.169.254", Metadata),
        ("::ffff:8.8.8.8", Global),
        ("64:ff9b::127.0.0.1", Loopback),
        ("64:ff9b::169.254.169.254", Metadata),
        ("64:ff9b::8.8.8.8", Global),
    ] {
        assert_eq!(classify(address.parse().unwrap()), class, "{address}");
    }
}

/// Against the registry's list as prefixes: over many addresses, both views agree on what is global.
#[test]
fn only_global_addresses_pass_without_leave() {
    let special: Vec<ipnet::Ipv4Net> = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
    ]
    .iter()
    .map(|net| net.parse().unwrap())
    .collect();
    let strict = Egress::default();
    let mut random = fastrand::Rng::with_seed(7);
    let edges = special.iter().flat_map(|net| {
        let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
        [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
    });
    let samples = std::iter::repeat_with(|| random.u32(..)).take(200_000);
    for bits in edges.chain(samples) {
        let address = Ipv4Addr::from(bits);
        let expected = !special.iter().any(|net| net.contains(&address));
        assert_eq!(strict.permits(IpAddr::V4(address)), expected, "{address}");
        assert_eq!(strict.permits(IpAddr::V6(address.to_ipv6_mapped())), expected, "mapped {address}");
    }
}

#[test]
fn private_leave_opens_private_networks_and_never_the_metadata_service() {
    let private = Egress { private: true, ..Egress::default() };
    for (address, allowed) in [
        ("127.0.0.1", true),
        ("10.1.1.1", true),
        ("fd12::1", true),
        ("1.1.1.1", true),
        ("169.254.169.254", false),
        ("fd00:ec2::254", false),
        ("0.0.0.0", false),
        ("224.0.0.1", false),
        ("192.0.2.1", false),
    ] {
        assert_eq!(private.permits(address.parse().unwrap()), allowed, "{address}");
    }
}

#[test]
fn a_provider_is_private_when_its_own_host_says_so() {
    for (host, private) in [
        ("localhost", true),
        ("ollama.localhost", true),
        ("127.0.0.1", true),
        ("[::1]", true),
        ("192.168.0.10", true),
        ("api.openai.com", false),
        ("8.8.8.8", false),
        ("169.254.169.254", false),
        ("localhost.example.com", false),
    ] {
        assert_eq!(Egress::of_provider(host, false).private, private, "{host}");
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_without_a_connection() {
    let peer = peer(|mut talk, _| async move { talk.answer("inside").await }).await;
    let client = Client::default();
    let port = peer.addr.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let mut out = call(format!("http://{host}:{port}/secret?key=hunter2"));
        out.egress = Egress::default();
        let error = whole(&client, out).await.unwrap_err();
        assert_eq!(error.code(), "egress_refused", "{host}");
        assert!(!error.message.contains("hunter2") && !error.message.contains("/secret"), "{error}");
    }
    assert_eq!(peer.count(), 0);
}

#[tokio::test]
async fn a_pooled_connection_of_a_private_provider_serves_no_other() {
    let peer = peer(|mut talk, _| async move {
        while talk.request().await.is_some() {
            talk.answer("inside").await;
        }
    })
    .await;
    let client = Client::default();
    assert_eq!(whole(&client, call(peer.url())).await.unwrap(), "inside");
    let mut out = call(peer.url());
    out.egress = Egress::default();
    assert_eq!(whole(&client, out).await.unwrap_err().code(), "egress_refused");
}

#[tokio::test]
async fn a_call_goes_only_to_the_hosts_it_is_bound_to() {
    let peer = peer(|mut talk, _| async move { talk.answer("hi").await }).await;
    let mut out = call(peer.url());
    out.egress = Egress { private: true, hosts: Some(Arc::new(["api.openai.com".to_owned()])), ..Egress::default() };
    let error = whole(&Client::default(), out).await.unwrap_err();
    assert_eq!(error.code(), "egress_refused");
    assert_eq!(peer.count(), 0);
    let mut bound = call(peer.url());
    bound.egress = Egress::of_provider("127.0.0.1", false);
    assert!(soon(Client::default().send(bound, &LIMITS)).await.is_ok());
}

#[test]
fn only_the_leave_to_ask_the_machine_opens_its_metadata_service() {
    let machine = Egress::of_machine("169.254.169.254");
    for (address, allowed) in
        [("169.254.169.254", true), ("169.254.170.2", true), ("10.1.1.1", false), ("0.0.0.0", false)]
    {
        assert_eq!(machine.permits(address.parse().unwrap()), allowed, "{address}");
    }
    let named = Egress::of_machine("metadata.example");
    assert!(named.permits("169.254.169.254".parse().unwrap()) && !named.permits("10.1.1.1".parse().unwrap()));
}
