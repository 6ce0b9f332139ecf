//! From a URL to a connection: the name, the guard, the address, the proxy, TLS.
//!
//! Every address that a name resolves to is checked, and exactly the checked ones are dialled: a name cannot change its
//! mind between the two.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Uri, uri::Authority};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;

use super::{
    Outgoing, Trust,
    egress::{self, Egress, is_local_name, literal},
    fault,
    proxy::{Proxy, ProxyConfig},
};
use crate::{
    error::{Error, Kind, Result},
    gather::Gather,
};

pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Plain sockets stay what they are: the common case pays no dynamic call.
pub type Wire = Either<Gather, Box<dyn Io>>;

/// A call's destination, checked.
#[derive(Debug)]
pub struct Place {
    pub authority: Authority,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    pub https: bool,
    pub http2: Option<bool>,
    pub egress: Egress,
    pub trust: Option<Arc<Trust>>,
    /// For messages: the host, and its port when it is not the scheme's.
    pub name: Arc<str>,
}

impl Place {
    pub fn of(out: &Outgoing) -> Result<Self> {
        let https = match out.url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Error::new(Kind::Internal, "an upstream URL must begin with http:// or https://")),
        };
        let authority = out.url.authority().cloned().filter(|a| !a.host().is_empty());
        let authority = authority.ok_or_else(|| Error::new(Kind::Internal, "an upstream URL has no host"))?;
        if authority.as_str().contains('@') {
            return Err(Error::new(Kind::Internal, "an upstream URL must not hold user information: use the key"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let usual = if https { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(usual);
        let name = if port == usual { host.clone() } else { format!("{host}:{port}") };
        if !out.egress.knows(&host) {
            return Err(Error::new(Kind::Internal, format!("{host} is not a host of this provider"))
                .with_code("egress_refused"));
        }
        Ok(Place {
            authority,
            host,
            port,
            https,
            http2: out.http2,
            egress: out.egress.clone(),
            trust: out.trust.clone(),
            name: name.into(),
        })
    }

    fn refused(&self, address: Option<IpAddr>) -> Error {
        let what = match address {
            Some(address) if literal(&self.host).is_none() => format!("{} leads to {address}, which", self.name),
            _ => self.name.to_string(),
        };
        Error::new(
            Kind::Upstream,
            format!("{what} is not on the open internet: set `private = true` for this provider if that is meant"),
        )
        .with_code("egress_refused")
    }
}

/// A new connection and what was agreed on it.
pub struct Connected {
    pub wire: Wire,
    pub http2: bool,
    /// Requests go to a proxy: in absolute form, with its credentials.
    pub forward: Option<Forward>,
}

#[derive(Debug, Clone)]
pub struct Forward {
    pub auth: Option<HeaderValue>,
}

pub struct Connector {
    proxies: Option<Matcher>,
    /// Reading the platform's authorities takes milliseconds: once, at the first https call.
    platform: OnceCell<Arc<Trust>>,
}

impl Connector {
    pub fn new(proxy: &ProxyConfig) -> Self {
        Connector { proxies: proxy.matcher(), platform: OnceCell::new() }
    }

    pub async fn connect(&self, place: &Place, limit: Duration) -> Result<Connected> {
        let end = Instant::now() + limit;
        let proxy = match &self.proxies {
            // The machine is asked who it is by itself: a proxy would be asked who the proxy is.
            Some(matcher) if !place.egress.metadata => Proxy::of(matcher, &place.url()?)?,
            _ => None,
        };
        match proxy {
            None => {
                let socket = dial(&place.host, place.port, Some(place), end).await?;
                if place.https {
                    self.secure(place, socket).await
                } else {
                    let http2 = place.http2 == Some(true);
                    Ok(Connected { wire: Either::Left(Gather(socket)), http2, forward: None })
                }
            }
            Some(proxy) => self.through(proxy, place, end).await,
        }
    }

    async fn through(&self, proxy: Proxy, place: &Place, end: Instant) -> Result<Connected> {
        // The proxy resolves the name; what can be judged here is an address written out.
        let forbidden = match literal(&place.host) {
            Some(address) => !place.egress.permits(address),
            None => is_local_name(&place.host) && !place.egress.private,
        };
        if forbidden {
            return Err(place.refused(None));
        }
        let socket = dial(&proxy.host, proxy.port, None, end).await?;
        let mut wire: Box<dyn Io> = Box::new(socket);
        if proxy.tls {
            let trust = self.platform().await?;
            wire = Box::new(handshake(&proxy.host, &proxy.host, trust.config(Some(false)), wire).await?);
        }
        if !place.https {
            let forward = Forward { auth: proxy.auth };
            return Ok(Connected { wire: Either::Right(wire), http2: false, forward: Some(forward) });
        }
        let literal_v6 = place.host.contains(':');
        let host = if literal_v6 { format!("[{}]", place.host) } else { place.host.clone() };
        let wire = proxy.tunnel(wire, &format!("{host}:{}", place.port)).await?;
        self.secure(place, wire).await
    }

    async fn secure(&self, place: &Place, wire: impl Io + 'static) -> Result<Connected> {
        let trust = match &place.trust {
            Some(trust) => trust.clone(),
            None => self.platform().await?,
        };
        let stream = handshake(&place.host, &place.name, trust.config(place.http2), wire).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2") || place.http2 == Some(true);
        Ok(Connected { wire: Either::Right(Box::new(stream)), http2, forward: None })
    }

    async fn platform(&self) -> Result<Arc<Trust>> {
        let load = || async {
            let loaded = tokio::task::spawn_blocking(Trust::platform).await;
            loaded.map_err(|e| Error::new(Kind::Internal, "TLS cannot be set up").because(e))?.map(Arc::new)
        };
        self.platform.get_or_try_init(load).await.cloned()
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("proxies", &self.proxies.is_some()).finish()
    }
}

impl Place {
    fn url(&self) -> Result<Uri> {
        let scheme = if self.https { "https" } else { "http" };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.clone())
            .path_and_query("/")
            .build()
            .map_err(|e| Error::new(Kind::Internal, "an upstream URL cannot be used").because(e))
    }
}

type TlsStream<T> = tokio_rustls::client::TlsStream<T>;

async fn handshake<T: Io>(host: &str, name: &str, config: Arc<rustls::ClientConfig>, wire: T) -> Result<TlsStream<T>> {
    let sni = ServerName::try_from(host.to_owned())
        .map_err(|e| Error::new(Kind::Internal, format!("{name} is not a name that TLS can verify")).because(e))?;
    TlsConnector::from(config).connect(sni, wire).await.map_err(|e| fault::no_tls(name, e))
}

/// Resolves, checks all, then tries one after another, families in turn, each with its share of the time.
async fn dial(host: &str, port: u16, guarded: Option<&Place>, end: Instant) -> Result<TcpStream> {
    let name = guarded.map_or(host, |place| &place.name);
    let addresses = match literal(host) {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => resolve(host, port).await.map_err(|e| fault::not_found(name, e))?,
    };
    if let Some(place) = guarded
        && let Some(bad) = addresses.iter().find(|a| !place.egress.permits(a.ip()))
    {
        tracing::warn!(host = name, address = %bad.ip(), class = ?egress::classify(bad.ip()), "egress refused");
        return Err(place.refused(Some(bad.ip())));
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
    let count = addresses.len();
    for (tried, address) in addresses.into_iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let share = (left / (count - tried) as u32).max(MIN_SHARE);
        match timeout_at(end, timeout(share, TcpStream::connect(address))).await {
            Ok(Ok(Ok(socket))) => {
                // Only a hint: a socket that refuses it still works.
                let _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Ok(Ok(Err(error))) => last = error,
            Ok(Err(_)) => last = io::ErrorKind::TimedOut.into(),
            Err(_) => return Err(fault::no_connection(name, io::ErrorKind::TimedOut.into())),
        }
    }
    Err(fault::no_connection(name, last))
}

/// Families in turn, the resolver's first choice first; no more than a handful.
async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let all: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let first_is_v6 = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    ours.truncate(MAX_ADDRESSES);
    others.truncate(MAX_ADDRESSES);
    let mut ordered = Vec::with_capacity(ours.len() + others.len());
    let mut others = others.into_iter();
    for address in ours {
        ordered.push(address);
        ordered.extend(others.next());
    }
    ordered.extend(others);
    Ok(ordered)
}

const MAX_ADDRESSES: usize = 8;
const MIN_SHARE: Duration = Duration::from_millis(250);
