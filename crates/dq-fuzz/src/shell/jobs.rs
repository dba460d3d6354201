//! Running jobs, which must not take for ever.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use dq_server::exec::{self, Job};
use dq_vfs::InterruptHandle;

/// Longest time for a job; then it is interrupted.
const JOB_TIME: Duration = Duration::from_secs(2);

/// Runs a job, and interrupts it if it takes too long.
pub(super) fn run(mut job: Job) -> exec::Finished {
    if job.inline {
        return exec::run(job);
    }
    type Watched = (InterruptHandle, Arc<Mutex<bool>>);
    static WATCH: OnceLock<Sender<Watched>> = OnceLock::new();
    let watch = WATCH.get_or_init(|| {
        let (sender, jobs) = channel::<Watched>();
        std::thread::spawn(move || {
            for (handle, done) in jobs {
                for _ in 0..JOB_TIME.as_millis() / 10 {
                    if *done.lock().expect("nobody panics with it") {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                while !*done.lock().expect("nobody panics with it") {
                    handle.interrupt();
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        sender
    });
    let done = Arc::new(Mutex::new(false));
    let handle = job.handle.db().interrupt_handle();
    // The thread lives as long as the process.
    let _ = watch.send((handle, done.clone()));
    let finished = exec::run(job);
    *done.lock().expect("nobody panics with it") = true;
    finished
}
