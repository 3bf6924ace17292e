//! Waiting for the rest of a message.
//!
//! FastDFS's daemons and clients have Nagle's algorithm on, and send a message's head and its content apart: the content
//! does not leave them before the head is acknowledged, and the kernel puts that off by 40 ms, in the hope of an answer
//! that could carry it. So what has come of a message is acknowledged before its rest is waited for.

use std::future::poll_fn;
use std::io;
use std::pin::pin;

use fdfs_host::TcpStream;

/// Waits until there is something to read of a message that has begun.
///
/// # Errors
/// What the system reported; the connection is of no further use.
pub async fn rest(stream: &TcpStream) -> io::Result<()> {
    let mut readable = pin!(stream.readable());
    let mut acknowledged = false;
    poll_fn(|cx| {
        let polled = readable.as_mut().poll(cx);
        if polled.is_pending() && !acknowledged {
            acknowledged = true;
            // Without it the rest comes later; that is all.
            let _ = stream.set_quickack(true);
        }
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn acknowledges_before_it_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();

        stream.set_quickack(false).unwrap();
        peer.write_all(b"head").await.unwrap();
        rest(&stream).await.unwrap();
        assert!(!stream.quickack().unwrap(), "there was something to read");

        assert_eq!(stream.read(&mut [0; 100]).await.unwrap(), 4);
        let mut waiting = pin!(rest(&stream));
        let polled = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        assert!(stream.quickack().unwrap());
        peer.write_all(b"content").await.unwrap();
        waiting.await.unwrap();
    }
}
