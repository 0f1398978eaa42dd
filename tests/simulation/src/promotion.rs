//! Promotion of a model by two promoters at once: the real [`Promotion`] on models of its record and of the pointer to the version in use. The lease lets two
//! promoters act at the same time for a moment, so that compare-and-set alone must protect both.
//!
//! Every request is two polls, one before it reaches the server and one before its reply arrives, so that a promoter may be killed, overtaken or cut off
//! at either point.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use qscale_common::time::{Span, Timestamp};
use qscale_promote::promotion::{CanaryVerdict, Due, Promotion, PromotionDecision, Superseded, Trial, ViolationMinutes};
use qscale_promote::{PromotionRules, PromotionSettings, Stage};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::checks::Violation;
use crate::context::START;

/// Polls of a run with faults, and then without.
const STEPS: (u32, u32) = (400, 300);
/// Promoters.
const PROMOTERS: usize = 2;

/// The pointer to the version in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Pointer {
    revision: u64,
    version: Option<u64>,
    on_trial: bool,
}

/// The server, and what operators did.
struct Server {
    pointer: Pointer,
    record: (u64, Promotion),
    now: Timestamp,
    versions: u64,
    rng: SmallRng,
    calm: bool,
    violation: Option<String>,
}

/// A request failed: its reply was lost, or another promoter wrote the record.
struct Failed;

#[derive(Clone)]
struct Client(Rc<RefCell<Server>>);

/// One poll later.
async fn later() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl Client {
    async fn request<T>(&self, request: impl FnOnce(&mut Server) -> T) -> Result<T, Failed> {
        later().await;
        let lost = |server: &mut Server| !server.calm && server.rng.random_bool(0.05);
        if lost(&mut self.0.borrow_mut()) {
            return Err(Failed);
        }
        let reply = request(&mut self.0.borrow_mut());
        later().await;
        if lost(&mut self.0.borrow_mut()) { Err(Failed) } else { Ok(reply) }
    }

    fn now(&self) -> Timestamp {
        self.0.borrow().now
    }

    async fn pointer(&self) -> Result<Pointer, Failed> {
        self.request(|server| server.pointer).await
    }

    /// Sets the pointer if it still is `expected`; otherwise the version in use.
    async fn point(&self, version: u64, on_trial: bool, expected: Pointer) -> Result<Result<(), Option<u64>>, Failed> {
        self.request(|server| {
            if server.pointer.revision != expected.revision {
                return Err(server.pointer.version);
            }
            server.pointer = Pointer { revision: expected.revision + 1, version: Some(version), on_trial };
            Ok(())
        })
        .await
    }
}

/// One step of a promoter, in the order of the service.
struct Step {
    client: Client,
    revision: u64,
    promotion: Promotion,
    settings: PromotionSettings,
}

impl Step {
    async fn run(client: Client) -> Result<(), Failed> {
        let (revision, promotion) = client.request(|server| server.record.clone()).await?;
        let settings = PromotionSettings { rules: rules(), ..PromotionSettings::default() };
        let mut step = Self { client, revision, promotion, settings };
        let now = step.client.now();
        match step.promotion.due(now, &step.settings.rules) {
            Due::Wait(_) => drop(step.is_expected_in_use().await?),
            Due::Round => step.round().await?,
            Due::EvaluateShadow(trial, _) => {
                if step.is_expected_in_use().await? {
                    step.evaluate_shadow(trial).await?;
                }
            }
            Due::PutInUse(trial, revision) => step.put_in_use(trial, revision).await?,
            Due::EvaluateTrial(trial, _) => step.look(trial, now).await?,
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), Failed> {
        let (expected, promotion) = (self.revision, self.promotion.clone());
        let written = self.client.request(move |server| {
            let is_last = server.record.0 == expected;
            if is_last {
                server.record = (expected + 1, promotion);
            }
            is_last
        });
        if !written.await? {
            return Err(Failed);
        }
        self.revision += 1;
        Ok(())
    }

    async fn end(&mut self, decision: PromotionDecision, trial: Trial) -> Result<(), Failed> {
        self.promotion.end(decision, Some(trial.version), "", self.client.now(), self.settings.rules.every);
        self.write().await
    }

    async fn supersede(&mut self, superseded: Superseded) -> Result<(), Failed> {
        self.promotion.supersede(superseded, self.client.now(), self.settings.rules.every);
        self.write().await
    }

    async fn is_expected_in_use(&mut self) -> Result<bool, Failed> {
        let in_use = self.client.pointer().await?.version;
        let Some(superseded) = self.promotion.superseded(in_use) else { return Ok(true) };
        self.supersede(superseded).await?;
        Ok(false)
    }

    async fn round(&mut self) -> Result<(), Failed> {
        let base = self.client.pointer().await?.version;
        let version = self.client.request(Server::push).await?;
        self.promotion.shadow(Trial { version, base }, self.settings.clone(), "", self.client.now());
        self.write().await
    }

    async fn evaluate_shadow(&mut self, trial: Trial) -> Result<(), Failed> {
        let now = self.client.now();
        if self.promotion.may_use(now, &self.settings.rules).is_err() {
            return self.end(PromotionDecision::Recommended, trial).await;
        }
        let pointer = self.client.pointer().await?;
        if let Some(superseded) = self.promotion.superseded(pointer.version) {
            return self.supersede(superseded).await;
        }
        let base = match trial.base {
            Some(base) => base,
            None => self.client.request(Server::push).await?,
        };
        let trial = Trial { base: Some(base), ..trial };
        self.promotion.watch(trial, pointer.revision, ViolationMinutes::default(), "", self.client.now(), &self.settings.rules);
        self.write().await?;
        self.put_in_use(trial, pointer.revision).await
    }

    async fn put_in_use(&mut self, trial: Trial, revision: u64) -> Result<(), Failed> {
        let now = self.client.now();
        let pointer = self.client.pointer().await?;
        if !(pointer.on_trial && pointer.version == Some(trial.version)) {
            if pointer.revision != revision {
                return self.supersede(Superseded { expected: trial.base, found: pointer.version }).await;
            }
            self.client.point(trial.version, true, pointer).await?.map_err(|_| Failed)?;
        }
        self.promotion.started(now, &self.settings.rules);
        self.write().await
    }

    async fn look(&mut self, trial: Trial, now: Timestamp) -> Result<(), Failed> {
        let burned = self.client.request(Server::burned).await?;
        let pointer = self.client.pointer().await?;
        match self.promotion.look(pointer.version, burned, now, &self.settings.rules) {
            CanaryVerdict::Continue => self.write().await,
            CanaryVerdict::Superseded(superseded) => self.supersede(superseded).await,
            CanaryVerdict::Promote(_) => self.conclude(trial, trial.version, PromotionDecision::Kept).await,
            CanaryVerdict::RollBack(_) => {
                let base = trial.base.unwrap_or(trial.version);
                self.conclude(trial, base, PromotionDecision::RolledBack).await
            }
        }
    }

    /// Ends the trial in use: `version` is in use from now on.
    async fn conclude(&mut self, trial: Trial, version: u64, decision: PromotionDecision) -> Result<(), Failed> {
        let pointer = self.client.pointer().await?;
        let expected = Some(trial.version);
        if pointer.version != expected {
            return self.supersede(Superseded { expected, found: pointer.version }).await;
        }
        if version != trial.version || pointer.on_trial {
            let put = self.client.point(version, false, pointer).await?;
            if let Err(found) = put {
                return self.supersede(Superseded { expected, found }).await;
            }
        }
        self.end(decision, trial).await
    }
}

impl Server {
    fn push(&mut self) -> u64 {
        self.versions += 1;
        self.versions
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
        if self.pointer.on_trial && self.pointer.version != watched {
            self.violation.get_or_insert(format!("version {:?} is on trial, the record watches {watched:?}", self.pointer.version));
        }
    }

    /// An operator chooses a version.
    fn use_by_hand(&mut self) {
        if self.versions > 0 {
            let version = self.rng.random_range(1..=self.versions);
            if self.pointer.version != Some(version) {
                self.pointer = Pointer { revision: self.pointer.revision + 1, version: Some(version), on_trial: false };
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
        pointer: Pointer::default(),
        record: (0, Promotion::default()),
        now: START,
        versions: 0,
        rng: SmallRng::seed_from_u64(seed),
        calm: false,
        violation: None,
    };
    let client = Client(Rc::new(RefCell::new(server)));
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x9e37);
    let start = || -> Pin<Box<dyn Future<Output = Result<(), Failed>>>> { Box::pin(Step::run(client.clone())) };
    let mut promoters: Vec<_> = (0..PROMOTERS).map(|_| start()).collect();
    let mut context = Context::from_waker(Waker::noop());
    for step in 0..STEPS.0 + STEPS.1 {
        let calm = step >= STEPS.0;
        client.0.borrow_mut().calm = calm;
        let pause = if rng.random_bool(0.1) { rng.random_range(0..120_000) } else { 50 };
        client.0.borrow_mut().now.0 += pause;
        let promoter = rng.random_range(0..PROMOTERS);
        let killed = !calm && rng.random_bool(0.02);
        if killed || promoters[promoter].as_mut().poll(&mut context).is_ready() {
            promoters[promoter] = start();
        }
        if !calm && rng.random_bool(0.01) {
            client.0.borrow_mut().use_by_hand();
        }
        client.0.borrow_mut().check();
        if let Some(detail) = client.0.borrow().violation.clone() {
            let check = "a candidate in use is watched".to_owned();
            return Some(Violation { at: client.now().0 - START.0, check, detail });
        }
    }
    None
}
