//! Executes the promotion of one model while this process leads. Owns how recordings are read, and how candidates are trained and stored; the order of writes
//! is that of [`crate::steps`], and whether a candidate passes is decided by [`crate::gate`] and [`crate::promotion`].

use std::time::Duration;

use anyhow::Context as _;
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::{Bucket, Bus};
use qscale_common::runtime::cancellable::until_cancelled;
use qscale_common::runtime::clock;
use qscale_common::runtime::models::{ModelStore, ReadError};
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::time::Timestamp;
use qscale_dqn::Checkpoint;
use qscale_dqn::checkpoint::MAX_BYTES;
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::registry;
use qscale_policies::History;
use qscale_replay::RecordedScenario;
use qscale_replay::recording::Period;
use qscale_rl::device::cpu;
use tokio_util::sync::CancellationToken;

use crate::evaluate_candidate::{ModelPair, OfflineGateInput, Scenarios};
use crate::experience::{Experience, ExperienceReader, Recording};
use crate::finetune::MAX_RECORDED;
use crate::gate::{NotSimulated, Thresholds};
use crate::metrics::PromoterMetrics;
use crate::promotion::{Due, PromotionDecision, Trial};
use crate::record::{BucketEntry, PromotionRecord, RecordChanged, request_key};
use crate::recorded_functions::{RecordedFunction, ServedAgent, functions_of};
use crate::requests::BusRequests;
use crate::settings::{PromotionRequest, PromotionSettings};
use crate::steps::TrialSteps;

/// Fewest recorded steps that a candidate is trained on: ten minutes of one function at the default tick.
const MIN_STEPS: usize = 120;
/// Interval between two evaluations of a candidate under watch, in the system's time.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Shortest pause in real time, for systems that run faster.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Delay after a failed step, doubled up to the maximum; real time. Short, because a candidate may be under watch.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// Longest pause after a periodic round that failed: a round computes for minutes.
const MAX_ROUND_RETRY_DELAY: Duration = Duration::from_secs(600);

/// Entries of the promotion bucket, by key.
pub(crate) type PromotionEntries = Bucket<(Name, BucketEntry)>;

/// Promotes one model until `token` is cancelled.
pub(crate) struct Worker {
    pub bus: Bus,
    pub author: Author,
    pub trust: TrustConfig,
    pub model: Name,
    pub entries: PromotionEntries,
    pub platform: Option<PlatformClient>,
    pub metrics: PromoterMetrics,
    pub token: CancellationToken,
}

/// Condition for the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Nothing.
    None,
    /// This long, real time, or a new request.
    For(Duration),
    /// A new request.
    Request,
}

impl Worker {
    /// Runs until the token is cancelled.
    pub(crate) async fn run(mut self) {
        let (mut delay, mut last_error) = (RETRY_DELAY, String::new());
        while !self.token.is_cancelled() {
            let request = self.request();
            let pause = match self.step(&request).await {
                Ok(pause) => {
                    (delay, last_error) = (RETRY_DELAY, String::new());
                    pause
                }
                Err(error) if error.is::<RecordChanged>() => Pause::For(MIN_PAUSE),
                Err(error) => {
                    let error = format!("{error:#}");
                    if error != last_error {
                        tracing::warn!(model = %self.model, error, retry_in = ?delay, "promotion step failed");
                        last_error = error;
                    }
                    self.metrics.failed_steps.inc();
                    let pause = Pause::For(delay);
                    delay = (delay * 2).min(MAX_RETRY_DELAY);
                    pause
                }
            };
            self.pause(pause, &request).await;
        }
    }

    fn request(&self) -> PromotionRequest {
        let entries = self.entries.borrow();
        match entries.as_ref().and_then(|entries| entries.get(&request_key(&self.model))).map(|entry| &entry.1) {
            Some(BucketEntry::Request(request)) => (**request).clone(),
            _ => PromotionRequest::default(),
        }
    }

    async fn pause(&mut self, pause: Pause, seen: &PromotionRequest) {
        let delay = match pause {
            Pause::None => return,
            Pause::For(delay) => delay,
            Pause::Request => Duration::MAX,
        };
        let (key, token) = (request_key(&self.model), self.token.clone());
        let changed = self.entries.wait_for(|entries| {
            let entry = entries.as_ref().and_then(|entries| entries.get(&key)).map(|entry| &entry.1);
            matches!(entry, Some(BucketEntry::Request(request)) if **request != *seen)
        });
        tokio::select! {
            () = token.cancelled() => {}
            () = tokio::time::sleep(delay) => {}
            Ok(_) = changed => {}
        }
    }

    /// Carries out the next step.
    async fn step(&self, request: &PromotionRequest) -> anyhow::Result<Pause> {
        let now = clock::now();
        let mut record = PromotionRecord::read(&self.bus, &self.model).await?;
        if let Some(round) = &request.round
            && record.promotion.accept(round, now)
        {
            tracing::info!(model = %self.model, round = round.id, "round requested");
            record.write().await?;
        }
        let Some((settings, candidate)) = record.promotion.plan(request) else { return Ok(Pause::Request) };
        let store = ModelStore::open(&self.bus).await?.trusting(&self.trust);
        let due = record.promotion.due(now, &settings.rules);
        let is_round = due == Due::Round;
        let (agent, decisions) = (settings.agent.clone(), record.promotion.decisions);
        let (bus, author, trust, metrics, model) = (&self.bus, &self.author, &self.trust, &self.metrics, &self.model);
        let requests = BusRequests { bus, author, trust, metrics, model, store, record, agent, decisions };
        let mut step = PromotionStep { worker: self, steps: TrialSteps { requests, settings } };
        let done = step.carry_out(due, candidate, now).await;
        let TrialSteps { requests: BusRequests { mut record, .. }, settings } = step.steps;
        self.metrics.set_promotion(&self.model, &record.promotion, now);
        match done {
            Err(error) if is_round && !error.is::<RecordChanged>() => {
                let retry = now.plus(settings.rules.every.0.min(MAX_ROUND_RETRY_DELAY));
                record.promotion.fail_round(&format!("{error:#}"), retry);
                record.write().await?;
                Err(error)
            }
            done => done,
        }
    }
}

/// One step of a promotion.
struct PromotionStep<'a> {
    worker: &'a Worker,
    steps: TrialSteps<BusRequests<'a>>,
}

impl PromotionStep<'_> {
    fn model(&self) -> &Name {
        &self.worker.model
    }

    fn bus(&self) -> &Bus {
        &self.worker.bus
    }

    async fn carry_out(&mut self, due: Due, candidate: Option<u64>, now: Timestamp) -> anyhow::Result<Pause> {
        match due {
            Due::Wait(until) => {
                let on_trial = self.steps.requests.record.promotion.trial().is_some();
                if on_trial && !self.steps.is_expected_in_use(now).await? {
                    return Ok(Pause::None);
                }
                let wait = if on_trial { until.since(now).min(LOOK_INTERVAL) } else { until.since(now) };
                return Ok(Pause::For(clock::real(wait).max(MIN_PAUSE)));
            }
            Due::Round => self.round(candidate, now).await?,
            Due::EvaluateShadow(trial, since) => {
                if self.steps.is_expected_in_use(now).await? {
                    self.evaluate_shadow(trial, since).await?;
                }
            }
            Due::PutInUse(trial, revision) => self.steps.put_in_use(trial, revision).await?,
            Due::EvaluateTrial(trial, since) => {
                self.steps.evaluate_trial(trial, since, now).await?;
                return Ok(Pause::For(clock::real(LOOK_INTERVAL).max(MIN_PAUSE)));
            }
        }
        Ok(Pause::None)
    }

    async fn checkpoint(&self, version: u64) -> anyhow::Result<Checkpoint> {
        let name = || format!("model {}@{version}", self.model());
        let bytes = self.steps.requests.store.reader().read(self.model(), version, MAX_BYTES).await.with_context(name)?;
        Checkpoint::from_bytes(&bytes).with_context(name)
    }

    /// The model of `version` and its name; without a version the bundled model.
    async fn model_in_use(&self, version: Option<u64>) -> anyhow::Result<(Checkpoint, String)> {
        match version {
            None => Ok((pretrained().clone(), "the bundled model".to_owned())),
            Some(version) => Ok((self.checkpoint(version).await?, format!("{}@{version}", self.model()))),
        }
    }

    async fn recorded(&self, functions: &[FunctionId], period: Period) -> anyhow::Result<Vec<RecordedFunction>> {
        let mut recorded = Vec::new();
        for function in functions {
            recorded.push(RecordedFunction::read(self.bus(), function, period).await?);
        }
        Ok(recorded)
    }

    /// The recorded functions as they are simulated, those that cannot be, and those without requests.
    async fn scenarios(&self, recorded: &[RecordedFunction]) -> Scenarios {
        let mut all = Scenarios::default();
        for recorded in recorded {
            if recorded.is_idle() {
                all.idle.push(recorded.function.to_string());
                continue;
            }
            let scenario = if recorded.in_period().is_empty() {
                Err(anyhow::anyhow!("no State is recorded since {}", recorded.period.since))
            } else {
                let platform = self.worker.platform.as_ref();
                RecordedScenario::read(self.bus(), platform, &recorded.states, History::REACH, recorded.period, None).await
            };
            match scenario {
                Ok(scenario) => all.scenarios.push(scenario),
                Err(error) => {
                    let (function, cause) = (recorded.function.to_string(), format!("{error:#}"));
                    tracing::warn!(function, cause, "function cannot be simulated");
                    all.failed.push(NotSimulated { function, cause });
                }
            }
        }
        all
    }

    /// Trains a candidate, or takes the stored `candidate`, and passes it through the offline gate.
    async fn round(&mut self, candidate: Option<u64>, now: Timestamp) -> anyhow::Result<()> {
        let settings = self.steps.settings.clone();
        settings.check()?;
        let agent = ServedAgent::new(&settings.agent, &settings.params)?;
        let functions = functions_of(self.bus(), &settings.agent, &self.worker.trust).await?;
        anyhow::ensure!(
            !functions.is_empty(),
            "no function obeys agent {0}; `qscale policy set FUNCTION agent={0} mode=active` changes that",
            settings.agent
        );
        let base_version = self.steps.requests.store.pointer(self.model()).await?.version();
        let (base, base_name) = self.model_in_use(base_version).await?;
        let given = match candidate {
            Some(version) => Some(self.checkpoint(version).await?),
            None => None,
        };
        let period = Period { since: now.minus(settings.since.0), until: now };
        let mut recorded = self.recorded(&functions, period).await?;
        let experiences = self.experiences(&agent, &base, &recorded).await?;
        let steps: usize = experiences.iter().map(Experience::steps).sum();
        if given.is_none() && steps < MIN_STEPS {
            let reason =
                format!("{steps} recorded ticks to learn from, at least {MIN_STEPS} are needed; choose an earlier --since, or wait");
            return self.steps.end(PromotionDecision::TooLittle, None, &reason).await;
        }
        // The simulation of the model in use can only be checked against its own decisions.
        for recorded in &mut recorded {
            recorded.restrict_to_model(self.bus(), &settings.agent, &base.fingerprint()).await?;
        }
        let scenarios = self.scenarios(&recorded).await;
        drop(recorded);
        let model = self.model().clone();
        let input = OfflineGateInput { model, settings, base, base_name, candidate: given, experiences, scenarios };
        let result = until_cancelled(&self.worker.token, "the offline gate", move |stop| input.run(&Thresholds::default(), stop)).await?;
        let Some(result) = result else { return Ok(()) };
        if let Some(training) = &result.training {
            let (recorded, repeats, simulated, error) = (training.recorded, training.repeats, training.simulated, training.error);
            tracing::info!(model = %self.model(), recorded, repeats, simulated, error, "candidate trained");
        }
        if !result.report.passes() {
            return self.steps.end(PromotionDecision::RejectedOffline, candidate, &result.report.why()).await;
        }
        let version = match candidate {
            Some(version) => version,
            None => {
                self.steps
                    .requests
                    .store
                    .push(&self.worker.author, self.model(), &result.candidate.to_bytes(), &result.candidate.fingerprint())
                    .await?
            }
        };
        self.steps.start_shadow(Trial { version, base: base_version }, &result.report.why()).await
    }

    /// Experience in each recording, as a network that decides by `base` would have made it.
    async fn experiences(
        &self,
        agent: &ServedAgent<'_>,
        base: &Checkpoint,
        recorded: &[RecordedFunction],
    ) -> anyhow::Result<Vec<Experience>> {
        let dqn = registry::learned(agent.params, Some(base), &cpu())?;
        let reward = base.header.reward.unwrap_or_default();
        let violation_cost = |state: &_| agent.violation_cost(state);
        let mut experiences = Vec::new();
        for function in recorded {
            let rewards = function.rewards(self.bus()).await?;
            let reader = ExperienceReader { actions: dqn.actions(), reward, violation_cost: &violation_cost };
            let recording = Recording { states: &function.states, rewards: &rewards, since: function.period.since };
            let mut experience = reader.read(&recording);
            let (ticks, skipped) = (experience.ticks.len(), experience.skipped);
            tracing::info!(
                function = %function.function,
                ticks,
                skipped = skipped.all(),
                missing = skipped.missing,
                unmeasured = skipped.unmeasured,
                unmatched = skipped.unmatched,
                "recording read"
            );
            // Training uses no more, and days of many functions would fill the memory.
            experience.keep_newest(MAX_RECORDED / recorded.len());
            experiences.push(experience);
        }
        Ok(experiences)
    }

    /// Evaluates the decisions of the candidate on the States since `since`.
    async fn evaluate_shadow(&mut self, trial: Trial, since: Timestamp) -> anyhow::Result<()> {
        let settings = self.steps.settings.clone();
        let functions = functions_of(self.bus(), &settings.agent, &self.worker.trust).await?;
        let recorded = self.recorded(&functions, Period { since, until: clock::now() }).await?;
        let scenarios = self.scenarios(&recorded).await;
        let pair = match self.model_pair(trial, &settings).await {
            Ok(pair) => pair,
            // Another attempt would fail in the same way, and no round starts while the trial lasts.
            Err(error) if !matches!(error.downcast_ref(), Some(ReadError::Unavailable(_))) => {
                let reason = format!("the models cannot be compared: {error:#}");
                return self.steps.end(PromotionDecision::RejectedInShadow, Some(trial.version), &reason).await;
            }
            Err(error) => return Err(error),
        };
        let seeds = settings.seeds;
        let report = until_cancelled(&self.worker.token, "the shadow gate", move |stop| {
            let thresholds = Thresholds::default();
            let shadowed = thresholds.shadowed(&pair.shadow(&recorded)?);
            let estimates = pair.estimates(scenarios, seeds, stop);
            Ok(estimates.map(|estimates| shadowed.and(thresholds.estimated(&estimates, false))))
        });
        let Some(report) = report.await? else { return Ok(()) };
        if report.passes() {
            self.steps.after_shadow(trial, &functions, &report.why()).await
        } else {
            self.steps.end(PromotionDecision::RejectedInShadow, Some(trial.version), &report.why()).await
        }
    }

    /// The model in use and the candidate, as the agent constructs them.
    async fn model_pair(&self, trial: Trial, settings: &PromotionSettings) -> anyhow::Result<ModelPair> {
        let ((base, _), candidate) = (self.model_in_use(trial.base).await?, self.checkpoint(trial.version).await?);
        ModelPair::new(&base, &candidate, &settings.params)
    }
}
