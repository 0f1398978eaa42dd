//! Promotion of a model by two promoters at once: the real steps on a model of the record and of the pointer to the version in use. The lease lets two promoters
//! act at the same time for a moment, so that compare-and-set alone must protect both.
//!
//! Every request is two polls, one before it reaches the server and one before its reply arrives, so that a promoter may be killed, overtaken or cut off
//! at either point.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::models::{InUse, ModelPointer, PointerError};
use qscale_common::time::{Span, Timestamp};
use qscale_promote::promotion::{Due, Promotion, Trial, ViolationMinutes};
use qscale_promote::record::RecordChanged;
use qscale_promote::steps::{TrialRequests, TrialSteps};
use qscale_promote::{PromotionRules, PromotionSettings, Stage};
use qscale_replay::recording::Period;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::checks::Violation;
use crate::context::START;

/// Polls of a run with faults, and then without.
const STEPS: (u32, u32) = (400, 300);
/// Promoters.
const PROMOTERS: usize = 2;

/// The server, and what operators did.
struct Server {
    pointer: ModelPointer,
    record: (u64, Promotion),
    now: Timestamp,
    versions: u64,
    rng: SmallRng,
    calm: bool,
    violation: Option<String>,
}

/// Requests of one promoter.
struct Requests {
    server: Arc<Mutex<Server>>,
    model: Name,
    revision: u64,
    promotion: Promotion,
}

/// One poll later.
async fn later() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

fn lock(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reply to `request`; `None` if the request or the reply is lost.
async fn request<T>(server: &Mutex<Server>, request: impl FnOnce(&mut Server) -> T) -> Option<T> {
    let lost = || {
        let mut server = lock(server);
        !server.calm && server.rng.random_bool(0.05)
    };
    later().await;
    if lost() {
        return None;
    }
    let reply = request(&mut lock(server));
    later().await;
    if lost() { None } else { Some(reply) }
}

impl Requests {
    async fn read(server: Arc<Mutex<Server>>) -> anyhow::Result<Self> {
        let (revision, promotion) = request(&server, |server| server.record.clone()).await.ok_or_else(no_reply)?;
        Ok(Self { server, model: Name::new("simulated")?, revision, promotion })
    }

    fn unavailable(&self) -> PointerError {
        PointerError::Unavailable { name: self.model.clone(), reason: "no reply".into() }
    }

    /// Sets the pointer to `version` if it still is `expected`.
    async fn point(&self, version: u64, on_trial: bool, expected: &ModelPointer) -> Result<(), PointerError> {
        let revision = expected.revision;
        let put = request(&self.server, |server| {
            if server.pointer.revision != revision {
                return Err(server.pointer.version());
            }
            server.point(version, on_trial);
            Ok(())
        });
        let changed = |found| PointerError::Superseded { name: self.model.clone(), expected: expected.version(), found };
        put.await.ok_or_else(|| self.unavailable())?.map_err(changed)
    }

    /// The pointer if it points to `version`.
    async fn expect_version(&self, version: u64) -> Result<ModelPointer, PointerError> {
        let pointer = self.pointer().await?;
        if pointer.version() == Some(version) {
            return Ok(pointer);
        }
        Err(PointerError::Superseded { name: self.model.clone(), expected: Some(version), found: pointer.version() })
    }
}

fn no_reply() -> anyhow::Error {
    anyhow::anyhow!("no reply")
}

impl TrialRequests for Requests {
    fn model(&self) -> &Name {
        &self.model
    }

    fn now(&self) -> Timestamp {
        lock(&self.server).now
    }

    fn promotion(&mut self) -> &mut Promotion {
        &mut self.promotion
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        let (expected, promotion) = (self.revision, self.promotion.clone());
        let written = request(&self.server, move |server| {
            let is_last = server.record.0 == expected;
            if is_last {
                server.record = (expected + 1, promotion);
            }
            is_last
        });
        if !written.await.ok_or_else(no_reply)? {
            return Err(RecordChanged(self.model.clone()).into());
        }
        self.revision += 1;
        Ok(())
    }

    async fn pointer(&self) -> Result<ModelPointer, PointerError> {
        request(&self.server, |server| server.pointer.clone()).await.ok_or_else(|| self.unavailable())
    }

    async fn push_bundled(&self) -> anyhow::Result<u64> {
        request(&self.server, Server::push).await.ok_or_else(no_reply)
    }

    async fn start_trial(&self, version: u64, _: u64, expected: &ModelPointer) -> Result<(), PointerError> {
        self.point(version, true, expected).await
    }

    async fn confirm_trial(&self, version: u64) -> Result<(), PointerError> {
        let pointer = self.expect_version(version).await?;
        if !pointer.in_use.as_ref().is_some_and(|in_use| in_use.on_trial) {
            return Ok(());
        }
        self.point(version, false, &pointer).await
    }

    async fn roll_back_trial(&self, version: u64, base: u64) -> Result<(), PointerError> {
        let pointer = self.expect_version(version).await?;
        self.point(base, false, &pointer).await
    }

    async fn violations(&self, _: &[FunctionId], _: Period) -> anyhow::Result<ViolationMinutes> {
        request(&self.server, Server::burned).await.ok_or_else(no_reply)
    }
}

/// One step of a promoter.
async fn step(server: Arc<Mutex<Server>>) -> anyhow::Result<()> {
    let mut requests = Requests::read(server).await?;
    let settings = PromotionSettings { rules: rules(), ..PromotionSettings::default() };
    let now = requests.now();
    let due = requests.promotion().due(now, &settings.rules);
    let mut steps = TrialSteps { requests, settings };
    match due {
        Due::Wait(_) => drop(steps.is_expected_in_use(now).await?),
        Due::Round => {
            let base = steps.requests.pointer().await?.version();
            let version = steps.requests.push_bundled().await?;
            steps.start_shadow(Trial { version, base }, "").await?;
        }
        Due::EvaluateShadow(trial, _) => {
            if steps.is_expected_in_use(now).await? {
                steps.after_shadow(trial, &[], "").await?;
            }
        }
        Due::PutInUse(trial, revision) => steps.put_in_use(trial, revision).await?,
        Due::EvaluateTrial(trial, since) => steps.evaluate_trial(trial, since, now).await?,
    }
    Ok(())
}

impl Server {
    fn push(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    fn point(&mut self, version: u64, on_trial: bool) {
        let in_use = Some(InUse { version, before: Vec::new(), on_trial });
        self.pointer = ModelPointer { revision: self.pointer.revision + 1, in_use };
    }

    fn burned(&mut self) -> ViolationMinutes {
        let violated_minutes = if self.rng.random_bool(0.1) { 3.0 } else { 0.0 };
        ViolationMinutes { violated_minutes, judged_minutes: 5.0 }
    }

    /// A candidate on trial must be in the record: whichever promoter reads it next watches the candidate.
    fn check(&mut self) {
        let watched = match self.record.1.stage {
            Stage::Watch { trial, .. } => Some(trial.version),
            Stage::Rest { .. } | Stage::Shadow { .. } => None,
        };
        let on_trial = self.pointer.in_use.as_ref().filter(|in_use| in_use.on_trial).map(|in_use| in_use.version);
        if on_trial.is_some() && on_trial != watched {
            self.violation.get_or_insert(format!("version {on_trial:?} is on trial, the record watches {watched:?}"));
        }
    }

    /// An operator chooses a version.
    fn use_by_hand(&mut self) {
        if self.versions > 0 {
            let version = self.rng.random_range(1..=self.versions);
            if self.pointer.version() != Some(version) {
                self.point(version, false);
            }
        }
    }
}

fn rules() -> PromotionRules {
    let minutes = |minutes: u64| Span::seconds(60 * minutes);
    PromotionRules {
        every: minutes(1),
        shadow_for: minutes(1),
        watch_for: minutes(5),
        budget_minutes: Some(20.0),
        ..PromotionRules::default()
    }
}

/// Runs two promoters under `seed`; the first violation.
#[must_use]
pub fn run(seed: u64) -> Option<Violation> {
    let server = Server {
        pointer: ModelPointer::default(),
        record: (0, Promotion::default()),
        now: START,
        versions: 0,
        rng: SmallRng::seed_from_u64(seed),
        calm: false,
        violation: None,
    };
    let server = Arc::new(Mutex::new(server));
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x9e37);
    let start = || -> Pin<Box<dyn Future<Output = anyhow::Result<()>>>> { Box::pin(step(server.clone())) };
    let mut promoters: Vec<_> = (0..PROMOTERS).map(|_| start()).collect();
    let mut context = Context::from_waker(Waker::noop());
    for poll in 0..STEPS.0 + STEPS.1 {
        let calm = poll >= STEPS.0;
        lock(&server).calm = calm;
        let pause = if rng.random_bool(0.1) { rng.random_range(0..120_000) } else { 50 };
        lock(&server).now.0 += pause;
        let promoter = rng.random_range(0..PROMOTERS);
        let killed = !calm && rng.random_bool(0.02);
        if killed || promoters[promoter].as_mut().poll(&mut context).is_ready() {
            promoters[promoter] = start();
        }
        if !calm && rng.random_bool(0.01) {
            lock(&server).use_by_hand();
        }
        lock(&server).check();
        let now = lock(&server).now;
        let violation = lock(&server).violation.clone();
        if let Some(detail) = violation {
            return Some(Violation { at: now.0 - START.0, check: "a candidate in use is watched".to_owned(), detail });
        }
    }
    None
}
