//! Where a call may go: the hosts bound to its key, and addresses on the open internet unless the provider's own
//! configuration says otherwise. Pure: classifies, dials nothing.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// A call's leave to go out.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    /// Loopback, private and link-local addresses may be dialled. Never the cloud's metadata service.
    pub private: bool,
    /// The metadata service may be dialled too: the gateway's own question for the identity of its machine, never a
    /// caller's call.
    pub metadata: bool,
    /// The only hosts this call may go to, by name without port; `None`: any.
    pub hosts: Option<Arc<[String]>>,
}

impl Egress {
    /// The leave of a provider: bound to its configured host, and private when that host says so itself (a literal
    /// private address, `localhost`) or the configuration does.
    pub fn of_provider(host: &str, private: bool) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let private = private || is_local_name(&host) || literal(&host).is_some_and(|a| classify(a).is_private());
        Egress { private, metadata: false, hosts: Some(Arc::new([host])) }
    }

    /// The leave to ask the machine that the gateway runs on who it is.
    pub fn of_machine(host: &str) -> Self {
        Egress { metadata: true, ..Egress::of_provider(host, false) }
    }

    pub(super) fn knows(&self, host: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|h| h.eq_ignore_ascii_case(host)))
    }

    pub fn permits(&self, address: IpAddr) -> bool {
        let class = classify(address);
        class == AddressClass::Global
            || (self.private && class.is_private())
            || (self.metadata && class == AddressClass::Metadata)
    }
}

/// What an address leads to (the IANA special-purpose registries, RFC 6890 and its updates).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    Global,
    Loopback,
    /// RFC 1918.
    Private,
    /// 100.64.0.0/10, carrier-grade NAT; clusters use it too.
    Shared,
    /// fc00::/7.
    UniqueLocal,
    LinkLocal,
    /// The cloud's metadata services.
    Metadata,
    Multicast,
    Unspecified,
    /// Documentation, benchmarks, tunnels, protocol assignments, the future: nobody's provider lives there.
    Reserved,
}

impl AddressClass {
    /// A provider may live there when the configuration says so.
    pub fn is_private(self) -> bool {
        use AddressClass::*;
        matches!(self, Loopback | Private | Shared | UniqueLocal | LinkLocal)
    }
}

pub fn classify(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    use AddressClass::*;
    match address.octets() {
        // AWS, Azure, Google and Oracle; ECS task credentials; Alibaba.
        [169, 254, 169, 254] | [169, 254, 170, 2] | [169, 254, 170, 23] | [100, 100, 100, 200] => Metadata,
        // Azure's wire server.
        [168, 63, 129, 16] => Metadata,
        [0, 0, 0, 0] => Unspecified,
        [127, ..] => Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Private,
        [100, 64..=127, ..] => Shared,
        [169, 254, ..] => LinkLocal,
        [224..=239, ..] => Multicast,
        // "This network", and class E with the broadcast address.
        [0, ..] | [240..=255, ..] => Reserved,
        // IETF assignments, the three documentation nets, 6to4 relays, benchmarks.
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [198, 18..=19, ..] => Reserved,
        _ => Global,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    use AddressClass::*;
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Loopback,
        // IPv4 in disguise leads where the IPv4 address leads: mapped, and by the well-known NAT64 prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            classify_v4(Ipv4Addr::new(a, b, c, d))
        }
        // AWS's and Google's metadata services on IPv6.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Metadata,
        [0xfc00..=0xfdff, ..] => UniqueLocal,
        [0xfe80..=0xfebf, ..] => LinkLocal,
        [0xff00..=0xffff, ..] => Multicast,
        // Teredo and protocol assignments, documentation, 6to4.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => Reserved,
        // All that is given out; what lies outside (local NAT64, SRv6, IPv4-compatible, site-local) is not the internet.
        [0x2000..=0x3fff, ..] => Global,
        _ => Reserved,
    }
}

/// An address written out, brackets or not.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

pub(super) fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}
