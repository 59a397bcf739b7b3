//! A queue whose backend runs on the main thread: a native thread owns the ring, and with it the fail mode, which so survives JavaScript.
//!
//! Sleeping is an event count on both sides: whoever wants to sleep sets its word and looks once more; whoever has published takes the
//! word away and wakes only if it was set. So no wake is lost, at most one is under way, and a busy queue makes none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use ublk::Wait;

use crate::bridge::{Bridge, End};
use crate::error::{NativeError, panic_message};
use crate::events::Wakes;
use crate::layout;
use crate::session::Session;

/// Starts a thread per queue; returns when every tag of every queue is fetched. On an error some may run: stop the device.
pub(crate) fn spawn_all(session: &Arc<Session>, wakes: &Arc<Wakes>) -> Result<(), NativeError> {
    let (report, ready) = mpsc::channel();
    for queue in &session.queues {
        let (session_of_thread, wakes, report, id) = (Arc::clone(session), Arc::clone(wakes), report.clone(), queue.id);
        let name = format!("ublk{}q{id}", session.device_id);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || run(&session_of_thread, id, &wakes, report))
            .map_err(|source| NativeError::no_thread(&source))?;
        session.add_thread(thread);
    }
    drop(report);
    ready.into_iter().collect()
}

fn run(session: &Arc<Session>, id: u16, wakes: &Wakes, report: mpsc::Sender<Result<(), NativeError>>) {
    let mut bridge = match Bridge::open(session, id) {
        Ok(bridge) => bridge,
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    let _ = report.send(Ok(()));
    drop(report);
    let end = catch_unwind(AssertUnwindSafe(|| serve(&mut bridge, id, wakes))).unwrap_or_else(|payload| {
        End::Broken(NativeError::panicked(Some(session.device_id), panic_message(payload.as_ref())))
    });
    bridge.close(end);
}

fn serve(bridge: &mut Bridge, id: u16, wakes: &Wakes) -> End {
    loop {
        match turn(bridge) {
            Ok(0) => {}
            Ok(_) => {
                if bridge.memory().swap(layout::JS_SLEEPING, 0) == 1 {
                    wakes.call(id.into());
                }
            }
            Err(end) => return end,
        }
    }
}

#[inline]
fn turn(bridge: &mut Bridge) -> Result<u32, End> {
    bridge.take_completions()?;
    bridge.memory().swap(layout::NATIVE_SLEEPING, 1);
    let wait = if bridge.has_completions() { Wait::No } else { Wait::Forever };
    let published = bridge.turn_ring(wait);
    bridge.memory().swap(layout::NATIVE_SLEEPING, 0);
    published
}
