//! The collector: the real [`Observer`] behind the model of the bus.

use std::sync::Arc;
use std::time::Duration;

use qscale_collector::observer::{Observation, Observer, SourceReading};
use qscale_collector::reading::{NodeLimits, Reading};
use qscale_common::contract::{Headroom, Outcome, TraceParent};
use qscale_common::name::Name;
use qscale_common::partition::Partition;
use qscale_common::scrape::FunctionScrape;
use qscale_common::units::{Mebibytes, Millicores};

use crate::context::Context;
use crate::platform;
use crate::protocol::{Delivery, Payload, PlatformRequest, PlatformScrape, ProcessOutput, Request, Timer};
use crate::recorder::Recorder;

/// Timeout of a reading, as configured by default.
const SCRAPE_TIMEOUT: Duration = Duration::from_millis(250);
/// Interval at which the clock is checked.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// No check reads traces.
const TRACE: TraceParent = TraceParent { trace: 1, span: 1 };

/// A collector with one source.
pub(crate) struct Collector {
    observer: Observer,
    recorder: Recorder,
    outcomes: Vec<Arc<Outcome>>,
    scrapes: u64,
    /// Number of the reading under way. A source is not asked again before it has answered.
    busy: Option<u64>,
    /// Whether States are published once the reading under way has ended.
    publishing: bool,
}

impl Collector {
    /// A collector that starts now.
    pub(crate) fn new(cx: &mut Context<'_>) -> Self {
        cx.after(Duration::ZERO, Timer::Wake);
        Self {
            observer: Observer::new(Partition::default(), cx.wall),
            recorder: Recorder::default(),
            outcomes: Vec::new(),
            scrapes: 0,
            busy: None,
            publishing: false,
        }
    }

    /// Processes a delivery.
    pub(crate) fn on_delivery(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        match delivery {
            Delivery::Message(Payload::Outcome(outcome)) => self.outcomes.push(outcome),
            Delivery::Policies(policies) => self.observer.set_policies(&policies, cx.wall),
            Delivery::Recorded(number) => self.recorder.on_recorded(number, cx),
            _ => {}
        }
    }

    /// Processes a timer.
    pub(crate) fn on_timer(&mut self, timer: &Timer, cx: &mut Context<'_>) {
        match timer {
            Timer::Wake => self.wake(cx),
            Timer::ScrapeTimeout(number) if self.publishing && *number == self.scrapes => self.publish(cx),
            _ => self.recorder.on_timer(timer, cx),
        }
    }

    fn sleep(&mut self, cx: &mut Context<'_>) {
        let pause = self.observer.next_tick(cx.wall).map_or(CLOCK_CHECK_INTERVAL, |next| next.since(cx.wall).min(CLOCK_CHECK_INTERVAL));
        cx.after(pause, Timer::Wake);
    }

    fn wake(&mut self, cx: &mut Context<'_>) {
        self.observer.check_clock(cx.wall);
        if self.observer.due(cx.wall).is_empty() {
            return self.sleep(cx);
        }
        self.publishing = true;
        if self.busy.is_some() {
            return self.publish(cx);
        }
        self.scrapes += 1;
        self.busy = Some(self.scrapes);
        cx.out.push(ProcessOutput::ToPlatform(PlatformRequest::Scrape(self.scrapes)));
        cx.after(SCRAPE_TIMEOUT, Timer::ScrapeTimeout(self.scrapes));
    }

    /// Processes a reading; `None` if the platform did not answer.
    pub(crate) fn on_scraped(&mut self, number: u64, scraped: Option<PlatformScrape>, cx: &mut Context<'_>) {
        if self.busy == Some(number) {
            self.busy = None;
        }
        if let Some(scraped) = scraped {
            cx.checks.on_scraped(&scraped, cx.wall);
            let headroom = Headroom { cpu_millicores: Millicores(64_000), memory_mib: Mebibytes(1 << 16) };
            let node = NodeLimits { cores: Some(platform::NODE_CORES), memory_bytes: Some(platform::NODE_BYTES) };
            let functions = scraped.functions.into_iter().map(|(workload, scrape)| (workload, at(scrape, cx))).collect();
            let reading = Reading { functions, headroom: Some(headroom), node, ..Reading::default() };
            let source = Name::new("platform").expect("a DNS label");
            let mut readings = [SourceReading { source, reading }];
            self.observer.record(&mut readings, cx.wall);
            for (metric, dropped) in readings[0].reading.dropped.iter() {
                cx.checks.on_dropped(metric.label(), &dropped.why.to_string());
            }
        }
        if self.publishing && number == self.scrapes {
            self.publish(cx);
        }
    }

    fn publish(&mut self, cx: &mut Context<'_>) {
        self.publishing = false;
        for outcome in std::mem::take(&mut self.outcomes) {
            self.observer.on_outcome(&outcome);
        }
        for place in self.observer.due(cx.wall) {
            let Some(Observation { state, reward, .. }) = self.observer.observe(place, cx.wall, TRACE) else { continue };
            cx.checks.on_state_published(&state);
            // Without a connection a State is dropped: it would be stale when it is sent.
            if cx.connected {
                cx.send(Request::Publish(Payload::State(Arc::new(state))));
            }
            if let Some((reward, _)) = reward {
                cx.checks.on_reward(&reward);
                self.recorder.record(Payload::Reward(Arc::new(reward)), cx);
            }
        }
        self.sleep(cx);
    }
}

/// `scrape`, taken now by this process's clock: the platform's exposition has no times.
fn at(mut scrape: FunctionScrape, cx: &Context<'_>) -> FunctionScrape {
    if let Some(platform) = &mut scrape.platform {
        platform.at = cx.wall;
    }
    if let Some(ingress) = &mut scrape.ingress {
        ingress.at = cx.wall;
    }
    for replica in &mut scrape.replicas {
        replica.at = cx.wall;
    }
    scrape
}
