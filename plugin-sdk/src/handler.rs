//! Runs handlers: decodes their parameters, polls or calls them, catches their panics, encodes what they return.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use palisade_protocol::{ErrorCode, Level};

use crate::action::ActionFacts;
use crate::call::Call;
use crate::error::wrong_params;
use crate::exchange::{Exchange, Outcome, SMALL_BYTES};
use crate::panic::{Panicked, guard};
use crate::value::{Params, Payload, Reply};
use crate::{Error, Result};

/// A scratch buffer larger than this is given back rather than kept.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

/// The actions of a plugin by name, as the connection uses them.
pub(crate) type Handlers<S> = BTreeMap<String, (Arc<ActionFacts>, Arc<dyn Handler<S>>)>;

/// A handler whose types are known to itself alone.
pub(crate) trait Handler<S>: Send + Sync {
    /// Begins a call. Most calls end in here.
    fn start(&self, call: Call<S>, payload: Payload<'_>) -> Started;
}

/// What is left of a call after its handler was started.
pub(crate) enum Started {
    /// Nothing: it has ended.
    Done,
    /// It waits for something.
    Task(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// It wants a thread.
    Thread(Box<dyn FnOnce() + Send>),
}

pub(crate) struct Async<H, P, R> {
    handler: H,
    types: PhantomData<fn(P) -> R>,
}

impl<H, P, R> Async<H, P, R> {
    pub(crate) const fn new(handler: H) -> Self {
        Self { handler, types: PhantomData }
    }
}

impl<S, H, F, P, R> Handler<S> for Async<H, P, R>
where
    S: Send + Sync + 'static,
    H: Fn(Call<S>, P) -> F + Send + Sync,
    F: Future<Output = Result<R>> + Send + 'static,
    P: Params,
    R: Reply,
{
    fn start(&self, call: Call<S>, payload: Payload<'_>) -> Started {
        let exchange = Arc::clone(&call.exchange);
        // `Deserialize` and the part of a handler before its future are an author's code as well.
        let begun = guard(|| P::decode(payload).map(|params| Box::pin((self.handler)(call, params))));
        let future = match begun {
            Ok(Ok(future)) => future,
            Ok(Err(error)) => {
                exchange.finish(Outcome::Failed(Box::new(wrong_params(&error).into_body())));
                return Started::Done;
            }
            Err(panicked) => {
                fail(&exchange, panicked);
                return Started::Done;
            }
        };
        let mut running = Running { future: Some(future), exchange };
        // Most handlers are done at once; a task is made only for the others. Being polled again with another waker is
        // something every future has to put up with.
        match running.poll_once(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => Started::Done,
            Poll::Pending => Started::Task(Box::pin(running)),
        }
    }
}

/// A handler at work.
struct Running<F> {
    future: Option<Pin<Box<F>>>,
    exchange: Arc<Exchange>,
}

impl<F, R> Running<F>
where
    F: Future<Output = Result<R>>,
    R: Reply,
{
    fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else { return Poll::Ready(()) };
        let exchange = &self.exchange;
        let polled = crate::log::within(exchange, || {
            guard(|| {
                if exchange.cancel_reason().is_some() && !exchange.is_listened_to() {
                    return Poll::Ready(Err(Error::cancelled()));
                }
                future.as_mut().poll(context)
            })
        });
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => {
                self.drop_future();
                finish(&self.exchange, result);
            }
            Err(panicked) => {
                self.drop_future();
                fail(&self.exchange, panicked);
            }
        }
        Poll::Ready(())
    }

    fn drop_future(&mut self) {
        let future = self.future.take();
        if let Err(panicked) = guard(|| drop(future)) {
            fail(&self.exchange, panicked);
        }
    }
}

impl<F, R> Future for Running<F>
where
    F: Future<Output = Result<R>>,
    R: Reply,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Before the look at the cancellation, so that one between the two is not missed.
        self.exchange.set_task(context.waker());
        self.poll_once(context)
    }
}

pub(crate) struct Blocking<H, P, R> {
    handler: Arc<H>,
    types: PhantomData<fn(P) -> R>,
}

impl<H, P, R> Blocking<H, P, R> {
    pub(crate) fn new(handler: H) -> Self {
        Self { handler: Arc::new(handler), types: PhantomData }
    }
}

impl<S, H, P, R> Handler<S> for Blocking<H, P, R>
where
    S: Send + Sync + 'static,
    H: Fn(Call<S>, P) -> Result<R> + Send + Sync + 'static,
    P: Params,
    R: Reply,
{
    fn start(&self, call: Call<S>, payload: Payload<'_>) -> Started {
        let exchange = Arc::clone(&call.exchange);
        match guard(|| P::decode(payload)) {
            Err(panicked) => fail(&exchange, panicked),
            Ok(Err(error)) => exchange.finish(Outcome::Failed(Box::new(wrong_params(&error).into_body()))),
            Ok(Ok(params)) => {
                let handler = Arc::clone(&self.handler);
                exchange.set_queued(true);
                return Started::Thread(Box::new(move || {
                    exchange.set_queued(false);
                    if exchange.cancel_reason().is_some() {
                        exchange.finish(Outcome::Cancelled);
                        return;
                    }
                    match crate::log::within(&exchange, || guard(|| handler(call, params))) {
                        Ok(result) => finish(&exchange, result),
                        Err(panicked) => fail(&exchange, panicked),
                    }
                }));
            }
        }
        Started::Done
    }
}

thread_local! {
    static SCRATCH: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

/// Ends a call with what its handler returned.
fn finish<R: Reply>(exchange: &Arc<Exchange>, result: Result<R>) {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => return fail_with(exchange, error),
    };
    let mut scratch = SCRATCH.take();
    scratch.clear();
    match guard(|| reply.encode(&mut scratch)) {
        Ok(Ok(None)) if scratch.len() > SMALL_BYTES => {
            exchange.finish(Outcome::Large(Bytes::from(std::mem::take(&mut scratch))));
        }
        Ok(Ok(None)) => exchange.finish(Outcome::Small(&scratch)),
        Ok(Ok(Some(bytes))) if bytes.len() > SMALL_BYTES => exchange.finish(Outcome::Large(bytes)),
        Ok(Ok(Some(bytes))) => exchange.finish(Outcome::Small(&bytes)),
        Ok(Err(error)) => fail_with(exchange, error),
        Err(panicked) => fail(exchange, panicked),
    }
    if scratch.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.set(scratch);
    }
}

fn fail_with(exchange: &Arc<Exchange>, error: Error) {
    // A handler that says `cancelled` without having been cancelled has failed in its own way.
    if error.code() == ErrorCode::Cancelled && exchange.cancel_reason().is_some() {
        exchange.finish(Outcome::Cancelled);
        return;
    }
    let body = error.into_body();
    exchange.wire.report(exchange.action.as_deref().map(|action| &*action.name), Some(exchange.id), &body);
    exchange.finish(Outcome::Failed(Box::new(body)));
}

fn fail(exchange: &Arc<Exchange>, panicked: Panicked) {
    let error = panicked.into_error("the handler");
    exchange.wire.log(Level::Error, error.message().to_owned(), None, Some(exchange.id));
    fail_with(exchange, error);
}
