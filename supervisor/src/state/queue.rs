//! One file of a plugin's state, and what waits for it.
//!
//! Whoever asks first has a thread begun that works until nothing waits; whoever asks meanwhile is among the next that are written together. So
//! there is at most one thread for a file, and none while nobody asks.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore, oneshot};

use super::operations::{self, Operation};
use super::{About, Reply, Request, StateError, lock, remove_file_set};
use crate::blocking;
use crate::store::database::state::{Settings, StateFile, has_plain, log_of, shared_of};

/// So many plugins' files are worked on at once, apart from everything else that blocks.
static PLACES: Semaphore = Semaphore::const_new(4);

/// So many wait for one file; who comes then is told to come back. All that the generations of a plugin may have under way have room.
const WAITING_MAX: usize = 1024;

/// So many are written together, which are answered when the last is on the disk.
const TOGETHER_MAX: usize = 64;

/// What a plugin asks for, not decoded yet.
#[derive(Debug)]
pub(super) struct Undecoded {
    pub(super) operation: Operation,
    pub(super) params: Vec<u8>,
    /// The form that its version keeps its state in.
    pub(super) schema: Option<u32>,
}

/// What waits.
enum Waiting {
    Asked(Request, oneshot::Sender<Result<Reply, StateError>>),
    Undecoded(Undecoded, oneshot::Sender<Result<Vec<u8>, StateError>>),
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked(request, _) => f.debug_tuple("Asked").field(request).finish(),
            Self::Undecoded(call, _) => f.debug_tuple("Undecoded").field(call).finish(),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    is_worked_on: bool,
}

/// A file, and what waits for it.
#[derive(Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    settings: Settings,
    queue: Mutex<Queue>,
    idle: Notify,
    /// Held by whoever does something with the file.
    file: Mutex<Option<StateFile>>,
    exists: AtomicBool,
    trouble: Mutex<Option<String>>,
    is_temporary: bool,
    /// Whether this daemon has looked at the copies that lie beside the file.
    has_sealed_copies: AtomicBool,
}

impl Shelf {
    pub(super) fn new(path: PathBuf, settings: Settings, exists: bool) -> Self {
        Self {
            path,
            settings,
            queue: Mutex::default(),
            idle: Notify::new(),
            file: Mutex::default(),
            exists: AtomicBool::new(exists),
            trouble: Mutex::default(),
            is_temporary: false,
            has_sealed_copies: AtomicBool::new(false),
        }
    }

    /// One whose file is removed with it.
    pub(super) fn temporary(path: PathBuf, settings: Settings, exists: bool) -> Self {
        let mut shelf = Self::new(path, settings, exists);
        shelf.is_temporary = true;
        shelf
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn exists(&self) -> bool {
        self.exists.load(Ordering::Acquire)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub(super) async fn about(self: &Arc<Self>) -> Result<Option<About>, StateError> {
        if !self.exists() {
            return Ok(None);
        }
        match self.request(Request::About).await? {
            Reply::About(about) => Ok(Some(about)),
            _ => Ok(None),
        }
    }

    pub(super) async fn request(self: &Arc<Self>, request: Request) -> Result<Reply, StateError> {
        let (tell, told) = oneshot::channel();
        self.push(Waiting::Asked(request, tell))?;
        told.await.unwrap_or_else(|_| Err(self.lost()))
    }

    pub(super) async fn call(self: &Arc<Self>, call: Undecoded) -> Result<Vec<u8>, StateError> {
        let (tell, told) = oneshot::channel();
        self.push(Waiting::Undecoded(call, tell))?;
        told.await.unwrap_or_else(|_| Err(self.lost()))
    }

    fn lost(&self) -> StateError {
        StateError::Unusable { path: self.path.clone(), reason: "there was no thread to work on it".to_owned() }
    }

    /// Puts it behind what waits, and has a thread begun if there is none. That goes on whoever waits for it.
    fn push(self: &Arc<Self>, waiting: Waiting) -> Result<(), StateError> {
        let begins = {
            let mut queue = lock(&self.queue);
            if queue.waiting.len() >= WAITING_MAX {
                return Err(StateError::Busy);
            }
            queue.waiting.push_back(waiting);
            !std::mem::replace(&mut queue.is_worked_on, true)
        };
        if begins {
            let (shelf, working) = (self.clone(), self.clone());
            // It ends by itself once nothing waits, which `finish` waits for.
            tokio::spawn(async move {
                if blocking::run_in(&PLACES, move || working.work()).await.is_err() {
                    shelf.give_up();
                }
            });
        }
        Ok(())
    }

    /// There is no thread, or it panicked: those who wait are told so.
    fn give_up(&self) {
        let waiting = {
            let mut queue = lock(&self.queue);
            queue.is_worked_on = false;
            std::mem::take(&mut queue.waiting)
        };
        drop(waiting);
        self.idle.notify_waiters();
    }

    /// Waits until nothing waits.
    pub(super) async fn finish(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Enabled before the look, so that an end between the two is not missed.
            idle.as_mut().enable();
            if !lock(&self.queue).is_worked_on {
                return;
            }
            idle.await;
        }
    }

    /// Works until nothing waits. Blocks.
    fn work(&self) {
        loop {
            let batch: Vec<_> = {
                let mut queue = lock(&self.queue);
                if queue.waiting.is_empty() {
                    queue.is_worked_on = false;
                    break;
                }
                let most = queue.waiting.len().min(TOGETHER_MAX);
                queue.waiting.drain(..most).collect()
            };
            self.answer(batch);
        }
        self.idle.notify_waiters();
    }

    fn answer(&self, batch: Vec<Waiting>) {
        let mut requests = Vec::with_capacity(batch.len());
        let mut asked = Vec::with_capacity(batch.len());
        for waiting in batch {
            match waiting {
                Waiting::Asked(request, tell) => {
                    requests.push(request);
                    asked.push(Ask::Whole(tell));
                }
                Waiting::Undecoded(Undecoded { operation, params, schema }, tell) => {
                    let request = operations::decode(operation, &params);
                    match request.and_then(|request| of_form(request, schema)) {
                        Ok(request) => {
                            requests.push(request);
                            asked.push(Ask::Encoded(tell));
                        }
                        // Nobody may be waiting any more, here and below.
                        Err(error) => drop(tell.send(Err(error))),
                    }
                }
            }
        }
        // Nothing is there as long as nobody has written anything.
        let all: Vec<_> = requests.iter().collect();
        let replies = if self.exists() || requests.iter().any(Request::writes) {
            match self.with(|file| Ok(file.apply(&all))) {
                Ok(replies) => replies,
                Err(error) => all.iter().map(|_| Err(error.clone())).collect(),
            }
        } else {
            all.iter().map(|request| Ok(nothing(request))).collect()
        };
        let damaged = replies.iter().find_map(|reply| reply.as_ref().err().filter(|error| error.is_lasting()));
        if let Some(error) = damaged {
            *lock(&self.trouble) = Some(error.to_string());
            *lock(&self.file) = None;
        }
        for (ask, reply) in asked.into_iter().zip(replies) {
            match ask {
                Ask::Whole(tell) => drop(tell.send(reply)),
                Ask::Encoded(tell) => drop(tell.send(reply.map(operations::encode))),
            }
        }
        // Once those that wait have their answers.
        if self.settings.vault.is_some() && !self.is_temporary && lock(&self.file).is_some() {
            self.seal_copies();
        }
    }

    /// Seals the copies beside the file that were made before there was a key: of packages that served before, and what was put aside. Each is
    /// exchanged whole. Blocks.
    fn seal_copies(&self) {
        if self.has_sealed_copies.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(folder) = self.path.parent() else { return };
        let is_copy = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| {
                (name.starts_with(super::BACKUP) || name.starts_with(super::ASIDE)) && name.ends_with(".sqlite3")
            })
        };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for copy in entries.map(|entry| entry.path()).filter(is_copy).collect::<Vec<_>>() {
            if let Err(error) = self.seal_copy(&copy, &folder.join(super::SEALING)) {
                tracing::warn!(plugin = %self.settings.plugin, file = %copy.display(), %error, "it is not sealed, as a plugin's state is that has a key");
            }
        }
    }

    fn seal_copy(&self, copy: &Path, beside: &Path) -> Result<(), StateError> {
        if !has_plain(copy)? {
            return Ok(());
        }
        let failed = |error: io::Error| super::written(copy, &error);
        remove_file_set(beside).and_then(|()| fs::copy(copy, beside)).map_err(failed)?;
        // Who opens it seals it.
        let sealed = StateFile::open(beside, self.settings.clone()).and_then(StateFile::close);
        let exchanged = sealed.and_then(|()| {
            let folder = copy.parent().unwrap_or(Path::new("."));
            File::open(beside)
                .and_then(|file| file.sync_all())
                .and_then(|()| fs::rename(beside, copy))
                .and_then(|()| File::open(folder)?.sync_all())
                .map_err(failed)
        });
        exchanged.inspect_err(|_| drop(remove_file_set(beside)))
    }

    /// Does something with the file, which is opened if it is not. Blocks.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut StateFile) -> Result<T, StateError>) -> Result<T, StateError> {
        let mut held = lock(&self.file);
        let file = match &mut *held {
            Some(file) => file,
            none => none.insert(self.open()?),
        };
        let done = work(file);
        if let Err(StateError::Damaged { .. }) = &done {
            // Somebody may put another one in its place.
            *held = None;
        }
        done
    }

    fn open(&self) -> Result<StateFile, StateError> {
        let opened = StateFile::open(&self.path, self.settings.clone());
        match &opened {
            Ok(_) => {
                self.exists.store(true, Ordering::Release);
                *lock(&self.trouble) = None;
            }
            Err(error) => *lock(&self.trouble) = Some(error.to_string()),
        }
        opened
    }

    /// See `State::replace_with`. Blocks.
    pub(super) fn replace_with(&self, copy: &Path, aside: &Path) -> Result<Option<PathBuf>, StateError> {
        let mut held = lock(&self.file);
        let failed = |error: io::Error| super::written(&self.path, &error);
        // Whether it can be used is found out before anything is done, and it is one file then.
        StateFile::open(copy, self.settings.clone())?.close()?;
        // One that is damaged is put aside as it is.
        let before = held.take().map_or_else(|| StateFile::open(&self.path, self.settings.clone()), Ok);
        match before.and_then(StateFile::close) {
            Ok(()) | Err(StateError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let was_there = self.exists();
        if was_there {
            fs::hard_link(&self.path, aside).map_err(failed)?;
        }
        // What is in a log belongs to the file that is put aside, and must not be taken for the new one's.
        for (beside, aside) in [(log_of(&self.path), log_of(aside)), (shared_of(&self.path), shared_of(aside))] {
            match fs::rename(&beside, &aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        fs::rename(copy, &self.path).map_err(failed)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        self.exists.store(true, Ordering::Release);
        *lock(&self.trouble) = None;
        Ok(was_there.then(|| aside.to_owned()))
    }

    /// Closes the file and has it removed. Blocks.
    pub(super) fn remove(&self, remove: impl FnOnce() -> io::Result<()>) -> Result<(), StateError> {
        let mut held = lock(&self.file);
        drop(held.take());
        remove().map_err(|error| super::written(&self.path, &error))?;
        self.exists.store(false, Ordering::Release);
        *lock(&self.trouble) = None;
        Ok(())
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        if self.is_temporary {
            let file = lock(&self.file).take();
            let path = std::mem::take(&mut self.path);
            let remove = move || {
                drop(file);
                let _ = remove_file_set(&path);
            };
            // Whoever uses it last may be the daemon's own thread, which is not to wait for a disk.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(blocking::run_in(&PLACES, remove))),
                Err(_) => remove(),
            }
        }
    }
}

/// How an answer is wanted.
#[derive(Debug)]
enum Ask {
    Whole(oneshot::Sender<Result<Reply, StateError>>),
    Encoded(oneshot::Sender<Result<Vec<u8>, StateError>>),
}

/// What a version of a plugin writes has its form, if it writes the first. It may bring it into that form and those before, and into none of a
/// version that it does not know.
fn of_form(request: Request, form: Option<u32>) -> Result<Request, StateError> {
    let Request::Write { steps, schema, form: _ } = request else { return Ok(request) };
    match (schema, form) {
        (Some(_), None) => Err(StateError::Invalid(
            "`schema`: the plugin.json says no `state.schema_version`, so its state has no form".to_owned(),
        )),
        (Some(0), _) => Err(StateError::Invalid("`schema` is at least 1".to_owned())),
        (Some(schema), Some(form)) if form < schema => Err(StateError::Invalid(format!(
            "`schema` is {schema}, and `state.schema_version` in the plugin.json {form}"
        ))),
        _ => Ok(Request::Write { steps, schema, form }),
    }
}

/// What is answered where there is nothing.
fn nothing(request: &Request) -> Reply {
    match request {
        Request::Get { .. } => Reply::Value(None),
        Request::List { .. } => Reply::Keys { keys: Vec::new(), more: false },
        Request::About => Reply::About(About::default()),
        Request::Write { .. } | Request::SetAbout { .. } => Reply::Written { revision: None },
    }
}
