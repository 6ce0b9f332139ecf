//! A socket whose small writes go out in one piece: what an HTTP message is made of (a head, the parts of a body) costs the kernel more
//! as a list than its few bytes cost to be put together.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub struct Gather(pub TcpStream);

thread_local! {
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AsyncRead for Gather {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Gather {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = Pin::new(&mut self.0);
        match slices {
            [only] => socket.poll_write(cx, only),
            _ if slices.iter().map(|slice| slice.len()).sum::<usize>() > SMALL => {
                socket.poll_write_vectored(cx, slices)
            }
            _ => PIECE.with_borrow_mut(|piece| {
                piece.clear();
                slices.iter().for_each(|slice| piece.extend_from_slice(slice));
                socket.poll_write(cx, piece)
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// From here on copying costs as much as it saves.
const SMALL: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_order_whatever_their_size() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (mut other, _) = listener.accept().await.expect("accepted");
        let mut gather = Gather(socket);
        for sizes in [vec![1, 0, 2], vec![SMALL], vec![SMALL - 1, 1], vec![SMALL, 1], vec![0, 0], vec![]] {
            let pieces: Vec<Vec<u8>> = sizes.iter().map(|size| (0..*size).map(|at| at as u8).collect()).collect();
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let written = poll_fn(|cx| Pin::new(&mut gather).poll_write_vectored(cx, &slices)).await.expect("written");
            assert_eq!(written, sizes.iter().sum::<usize>());
            let mut read = vec![0; written];
            other.read_exact(&mut read).await.expect("read");
            assert_eq!(read, pieces.concat());
        }
    }
}
