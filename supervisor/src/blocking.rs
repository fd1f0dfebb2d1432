//! Work that blocks, each on a thread of its own that ends with it.
//!
//! The runtime has a pool for that, and panics when the system lets it make no thread: that would end whatever task wanted the work
//! done, and a released daemon altogether. Here it is an error. Nor do threads wait for more work: while there is a second one, every
//! system call of the first costs a little more.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, oneshot};

/// So many at once; what is more waits.
static PLACES: Semaphore = Semaphore::const_new(4);

/// Has it done, and waits for what comes of it.
///
/// Cancel safe: work that has begun goes on, and what comes of it is dropped.
///
/// # Errors
/// When there is no thread to be had, or the work panicked.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    run_in(&PLACES, work).await
}

/// The same for work that may take long, and is bounded by places of its own, so that nothing else waits for it.
///
/// # Errors
/// As [`run`].
pub async fn run_in<T: Send + 'static>(
    places: &'static Semaphore,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let place = places.acquire().await.map_err(io::Error::other)?;
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("blocking".to_owned()).spawn(move || {
        let done = work();
        drop(place);
        // Nobody may be waiting any more.
        let _ = tell.send(done);
    })?;
    told.await.map_err(|_| io::Error::other("it panicked"))
}

/// So many threads share one piece of work.
const SHARERS_MAX: usize = 4;

/// It is not shared by more than have so many pieces each to do.
const PIECES_MIN: usize = 8;

/// Does the same with each of `pieces`, for which there may be several threads until all is done, and returns what comes of each in
/// their order. Blocks.
pub fn share<P: Sync, T: Send>(pieces: &[P], work: impl Fn(&P) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let share = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(at) else { return done };
            done.push((at, work(piece)));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let sharers = processors.min(SHARERS_MAX).min(pieces.len() / PIECES_MIN);
    let mut done = std::thread::scope(|scope| {
        // Where there is no thread to be had, the others do it.
        let beside = (1..sharers)
            .map_while(|_| std::thread::Builder::new().name("blocking".to_owned()).spawn_scoped(scope, share).ok());
        let beside: Vec<_> = beside.collect();
        let mut done = share();
        for one in beside {
            done.extend(one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, done)| done).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_done_once_and_in_order() {
        for pieces in [0, 1, 7, 100, 1000] {
            let pieces: Vec<usize> = (0..pieces).collect();
            assert_eq!(share(&pieces, |piece| piece * 2), pieces.iter().map(|piece| piece * 2).collect::<Vec<_>>());
        }
    }

    /// Whoever does which: here each of two threads has one of the first two pieces, and then one of the next two.
    #[test]
    fn what_several_threads_share_is_in_order_too() {
        if std::thread::available_parallelism().map_or(1, usize::from) == 1 {
            println!("SKIPPED: nothing is shared on one processor");
            return;
        }
        let together = std::sync::Barrier::new(2);
        let pieces: Vec<usize> = (0..2 * PIECES_MIN).collect();
        let done = share(&pieces, |piece| {
            if *piece < 4 {
                together.wait();
            }
            *piece
        });
        assert_eq!(done, pieces);
    }

    #[tokio::test]
    async fn what_comes_of_it_is_told_and_a_panic_is_an_error() {
        assert_eq!(run(|| 6 * 7).await.unwrap(), 42);
        let panicked: io::Result<()> = run(|| panic!("on purpose")).await;
        assert_eq!(panicked.unwrap_err().to_string(), "it panicked");
        // It has left its place: there is one for more than there are.
        for number in 0..8 {
            let panicked: io::Result<()> = run(|| panic!("on purpose")).await;
            assert!(panicked.is_err());
            assert_eq!(run(move || number).await.unwrap(), number);
        }
    }

    #[tokio::test]
    async fn what_is_more_waits() {
        let (begun, mut begins) = tokio::sync::mpsc::channel(8);
        let (end, ends) = std::sync::mpsc::sync_channel::<()>(8);
        let ends = std::sync::Arc::new(std::sync::Mutex::new(ends));
        let one = || {
            let (begun, ends) = (begun.clone(), ends.clone());
            tokio::spawn(run(move || {
                begun.blocking_send(()).unwrap();
                ends.lock().unwrap().recv().unwrap();
            }))
        };
        let all: Vec<_> = (0..5).map(|_| one()).collect();
        for _ in 0..4 {
            begins.recv().await.unwrap();
        }
        assert_eq!(PLACES.available_permits(), 0);
        assert!(begins.try_recv().is_err());
        (0..5).for_each(|_| end.send(()).unwrap());
        for one in all {
            one.await.unwrap().unwrap();
        }
        begins.recv().await.unwrap();
    }
}
