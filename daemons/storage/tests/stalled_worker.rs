//! A worker of a storage that stands still, as one does that waits for a disk, while the others go on. In a process of its
//! own: the worker's thread is found by its name.
#![allow(clippy::unwrap_used, reason = "what fails in a test fails the test")]
#![allow(unsafe_code, reason = "a thread is stopped by a signal")]

mod common;
#[allow(dead_code, reason = "more is there for other tests")]
#[path = "replication/group.rs"]
mod group;

use std::sync::Mutex;
use std::time::Duration;

use group::Group;

/// Longer than other members wait for an answer.
extern "C" fn stand_still(_: libc::c_int) {
    let span = libc::timespec { tv_sec: 5, tv_nsec: 0 };
    // SAFETY: nanosleep may be called in a signal handler; the span outlives the call.
    unsafe { libc::nanosleep(&raw const span, std::ptr::null_mut()) };
}

/// The thread of the first worker, which also accepts connections.
fn first_worker() -> i32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let named = tasks.filter(|t| std::fs::read_to_string(t.path().join("comm")).is_ok_and(|c| c.trim() == "storage-0"));
    let mut found = named.map(|t| t.file_name().to_str().unwrap().parse().unwrap());
    let first = found.next().unwrap();
    assert_eq!(found.next(), None);
    first
}

#[test]
fn nothing_acknowledged_is_lost_while_a_worker_stands_still() {
    // SAFETY: the handler calls nothing but what a handler may.
    unsafe { libc::signal(libc::SIGUSR1, stand_still as *const () as libc::sighandler_t) };
    let mut group = Group::new();
    group.add(|_| {});
    let worker = first_worker();
    group.add(|_| {});
    (0..2).for_each(|i| group.wait_active(i));
    // Some at each worker.
    let mut clients: Vec<_> = (0..4).map(|_| group.client(0)).collect();
    let name = clients[0].upload_appender(b"", "log");
    group.converge("before");
    assert!(clients.iter_mut().all(|client| client.is_alive()));
    // SAFETY: the thread is one of this process.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), worker, libc::SIGUSR1) };
    assert_eq!(sent, 0);
    let acknowledged = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                let began = std::time::Instant::now();
                for n in 0.. {
                    let text = format!("{:?}-{n} ", std::thread::current().id());
                    if client.append(&name, text.as_bytes()).status == 0 {
                        acknowledged.lock().unwrap().push(text);
                    }
                    if began.elapsed() > Duration::from_secs(6) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
        let status = group.client(1).append(&name, b"other ").status;
        if status == 0 {
            acknowledged.lock().unwrap().push("other ".to_owned());
        }
    });
    group.converge("after");
    let content = String::from_utf8(group.client(1).content(&name)).unwrap();
    for text in acknowledged.lock().unwrap().iter() {
        assert!(content.contains(text.as_str()), "{text}is lost: {content}");
    }
}
