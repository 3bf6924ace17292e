//! Everything that daemons, client and network say, in order: hashed, so that two runs can be compared, and printed if
//! wanted. It also notes which host runs, since the simulation says that the same way.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hasher};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::machine;

thread_local! {
    static HASH: RefCell<DefaultHasher> = RefCell::new(DefaultHasher::new());
    static HOSTS: RefCell<Vec<Host>> = const { RefCell::new(Vec::new()) };
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// A host as spans name it. The first stands for the simulation itself.
struct Host {
    name: String,
    /// By how many seconds its wall clock is wrong.
    wrong: i64,
}

/// Takes what is said. `print`: to standard output as well.
pub fn install(print: bool) {
    HOSTS.with_borrow_mut(|hosts| hosts.push(Host { name: "-".to_owned(), wrong: 0 }));
    // Nothing else is installed in this process.
    let _ = tracing::subscriber::set_global_default(Trace { print });
}

/// The hash of everything said so far.
pub fn hash() -> u64 {
    HASH.with_borrow(DefaultHasher::finish)
}

/// Puts the wall clock of a host forward by some seconds, or back.
pub fn step_wall_clock(host: &str, seconds: i64) {
    let number = number(host);
    HOSTS.with_borrow_mut(|hosts| hosts[number].wrong += seconds);
}

fn number(name: &str) -> usize {
    HOSTS.with_borrow_mut(|hosts| {
        hosts.iter().position(|host| host.name == name).unwrap_or_else(|| {
            hosts.push(Host { name: name.to_owned(), wrong: 0 });
            hosts.len() - 1
        })
    })
}

fn run(number: usize) {
    RUNNING.set(number);
    machine::set_wall_clock_error(HOSTS.with_borrow(|hosts| hosts[number].wrong));
}

struct Trace {
    print: bool,
}

impl Subscriber for Trace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // turmoil's events spell out every byte; what is sent and received is told by the streams.
        let ours = metadata.target().starts_with("fdfs");
        if metadata.is_span() { metadata.name() == "node" } else { ours && *metadata.level() <= Level::TRACE }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = Text(String::new());
        span.record(&mut text);
        Id::from_u64(number(text.0.trim_start_matches("name=").trim_matches('"')) as u64)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut text = Text(String::new());
        let host = RUNNING.get();
        HOSTS.with_borrow(|hosts| {
            let name = &hosts[host].name;
            let now = machine::now();
            let _ = write!(text.0, "{:>11.6} {name:4} {:5} ", now.as_secs_f64(), metadata.level());
        });
        event.record(&mut text);
        HASH.with_borrow_mut(|hash| hash.write(text.0.as_bytes()));
        if self.print {
            println!("{}  [{}]", text.0, metadata.target());
        }
    }

    fn enter(&self, span: &Id) {
        run(span.into_u64() as usize);
    }

    fn exit(&self, _span: &Id) {
        run(0);
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _: fmt::Result = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, "{name}={value:?}"),
        };
    }
}
