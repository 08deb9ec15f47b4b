//! The control socket's conversations: a thread for each client, none of which can hold up another.

use crate::frame::{self, MAX_REQUEST, Patience};
use crate::protocol::{Hello, Reply, Request};
use crate::registry::{self, Registry};
use crate::socket;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Clients at once.
pub const MAX_CLIENTS: usize = 128;
/// How long a client may be silent between requests, and take for one that it has begun.
const PATIENCE: Patience = Patience { first: Some(Duration::from_secs(60)), rest: Duration::from_secs(10) };
/// How long a client may leave a reply unread.
const REPLY_PATIENCE: Duration = Duration::from_secs(10);

/// Serves clients for ever. Those of user `uid` and root are served.
pub fn serve(listener: &UnixListener, registry: &Arc<Registry>, uid: u32) -> ! {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, most likely: others will be freed.
                tracing::warn!("a client can't be accepted: {e}");
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let place = Place::take(&clients);
        if place.0.load(Ordering::SeqCst) > MAX_CLIENTS {
            refuse(&stream, format!("vmd talks to {MAX_CLIENTS} clients already: try again later"));
            continue;
        }
        let registry = registry.clone();
        let conversation = move || {
            let _place = place;
            converse(&stream, &registry, uid);
        };
        if let Err(e) = thread::Builder::new().name("client".into()).spawn(conversation) {
            tracing::warn!("a client can't be served: {e}");
        }
    }
}

/// A client's place among those served, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, Ordering::SeqCst);
        Place(clients.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Says why and hangs up, never waiting for the client.
fn refuse(stream: &UnixStream, message: String) {
    let _ = stream.set_nonblocking(true);
    let _ = frame::write(stream, &Reply::Error { message }, REPLY_PATIENCE);
    // A socket closed with bytes unread takes back what was written to it.
    let mut unread = [0; 4096];
    for _ in 0..MAX_REQUEST / unread.len() {
        if !matches!((&mut &*stream).read(&mut unread), Ok(n) if n > 0) {
            return;
        }
    }
}

fn converse(stream: &UnixStream, registry: &Arc<Registry>, uid: u32) {
    let peer = match socket::peer_uid(stream) {
        Ok(peer) if peer == uid || peer == 0 => peer,
        Ok(peer) => {
            tracing::warn!("user {peer} was refused");
            return refuse(stream, "this vmd serves its own user and root only".into());
        }
        Err(e) => return refuse(stream, e.to_string()),
    };
    match frame::read::<Hello>(stream, MAX_REQUEST, PATIENCE) {
        Ok(hello) => match hello.check() {
            Ok(()) if frame::write(stream, &Hello::ours(), REPLY_PATIENCE).is_ok() => {}
            Ok(()) => return,
            Err(why) => return refuse(stream, why),
        },
        Err(e) => return refuse(stream, e.to_string()),
    }
    loop {
        let reply = match frame::read::<Request>(stream, MAX_REQUEST, PATIENCE) {
            Ok(request) => answer(stream, registry, peer, request),
            Err(e) if e.is_recoverable() => Some(Reply::Error { message: e.to_string() }),
            Err(frame::Error::Closed) => return,
            // Where the next message would begin is unknown now.
            Err(e) => return refuse(stream, e.to_string()),
        };
        let Some(reply) = reply else { return };
        if frame::write(stream, &reply, REPLY_PATIENCE).is_err() {
            return;
        }
    }
}

/// The answer; `None` when the client is gone.
fn answer(stream: &UnixStream, registry: &Arc<Registry>, peer: u32, request: Request) -> Option<Reply> {
    tracing::debug!(?request, peer, "request");
    let result: Result<Reply, registry::Error> = match request {
        Request::Start { spec } => registry.start(*spec, peer).map(|vm| Reply::Started { vm }),
        Request::Status { vm } => registry.status(vm.as_deref()).map(|vms| Reply::Vms { vms }),
        Request::Stop { vm, force } => registry.stop(vm.as_deref(), force).map(|vms| Reply::Stopping { vms }),
        Request::Pause { vm } => registry.pause(&vm).map(|vm| Reply::Done { vm }),
        Request::Unpause { vm } => registry.unpause(&vm).map(|vm| Reply::Done { vm }),
        Request::Wait { vm } => match registry.wait_for(&vm, || !is_gone(stream)).transpose()? {
            Ok((vm, ending)) => Ok(Reply::Ended { vm, ending }),
            Err(e) => Err(e),
        },
        Request::Console { vm } => registry.console(&vm).map(|(vm, tty)| Reply::Console { vm, tty }),
    };
    Some(result.unwrap_or_else(|e| Reply::Error { message: crate::sentence(&e.into()) }))
}

/// Whether the client has hung up.
fn is_gone(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Client};
    use std::io::Write;
    use std::path::PathBuf;
    use std::time::Instant;

    /// A daemon's socket in a directory of its own.
    fn server() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let uid = rustix::process::getuid().as_raw();
        thread::spawn(move || serve(&listener, &Arc::new(Registry::default()), uid));
        (dir, path)
    }

    fn refusal(result: Result<Reply, client::Error>) -> String {
        match result {
            Err(client::Error::Refused(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn conversation_goes_on_after_a_request_that_fails() {
        let (_dir, path) = server();
        let client = Client::connect(&path).unwrap();
        let none = refusal(client.request(&Request::Pause { vm: "a".into() }));
        assert!(none.contains("no VM a"), "{none}");
        let status = client.request(&Request::Status { vm: None }).unwrap();
        assert_eq!(status, Reply::Vms { vms: vec![] });
    }

    #[test]
    fn malformed_requests_each_get_an_error_reply() {
        let (_dir, path) = server();
        let stream = UnixStream::connect(&path).unwrap();
        let second = Duration::from_secs(1);
        let patience = Patience { first: Some(second), rest: second };
        frame::write(&stream, &Hello::ours(), second).unwrap();
        let _: Hello = frame::read(&stream, 1 << 16, patience).unwrap();
        for body in ["{}", "[]", "\"\\ud800\"", "{\"request\":\"start\",\"spec\":{}}", "", "\0\0"] {
            (&stream).write_all(&(body.len() as u32).to_le_bytes()).unwrap();
            (&stream).write_all(body.as_bytes()).unwrap();
            let reply: Reply = frame::read(&stream, 1 << 16, patience).unwrap();
            assert!(matches!(reply, Reply::Error { .. }), "{body}");
        }
        (&stream).write_all(&u32::MAX.to_le_bytes()).unwrap();
        let reply: Reply = frame::read(&stream, 1 << 16, patience).unwrap();
        assert!(matches!(reply, Reply::Error { message } if message.contains("too long")));
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn greeting_of_a_stranger_is_answered_with_why() {
        let (_dir, path) = server();
        let stream = UnixStream::connect(&path).unwrap();
        (&stream).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut all = Vec::new();
        (&stream).read_to_end(&mut all).unwrap();
        assert!(String::from_utf8_lossy(&all).contains("too long"));
    }

    #[test]
    fn silent_and_too_many_clients_leave_the_daemon_serving() {
        let (_dir, path) = server();
        let silent: Vec<_> = (0..MAX_CLIENTS).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let began = Instant::now();
        loop {
            // Threads take their places a little later than the connections.
            match Client::connect(&path) {
                Err(client::Error::Refused(message)) => break assert!(message.contains("try again")),
                _ => assert!(began.elapsed() < Duration::from_secs(5)),
            }
        }
        drop(silent);
        while Client::connect(&path).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn is_gone_sees_a_hangup() {
        let (a, b) = UnixStream::pair().unwrap();
        assert!(!is_gone(&b));
        drop(a);
        assert!(is_gone(&b));
    }
}
