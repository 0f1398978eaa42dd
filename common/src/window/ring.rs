//! The last 60 ticks: each in its compact form, with running sums over the last 12 and the last 60. Owns memory and arithmetic; must not know what is measured.

use super::counts::Counts;

/// Ticks in the short window.
pub(super) const SHORT: usize = 12;
/// Ticks in the long window.
pub(super) const LONG: usize = 60;

/// Values of a tick that cannot be summed; NaN if not measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peaks {
    /// Arrival rate, requests/s.
    pub rate: f32,
    /// Maximum CPU over the replicas, thousandths of a core.
    pub cpu: f32,
    /// Working set of the largest replica, MiB.
    pub memory: f32,
    /// Number of known replicas.
    pub replicas: f32,
}

impl Default for Peaks {
    fn default() -> Self {
        Self { rate: f32::NAN, cpu: f32::NAN, memory: f32::NAN, replicas: f32::NAN }
    }
}

/// The last 60 ticks.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    /// Compact forms, oldest first; bytes before `long_at` are obsolete.
    bytes: Vec<u8>,
    long_at: usize,
    short_at: usize,
    last_at: usize,
    short: Counts,
    long: Counts,
    rate: [f32; LONG],
    cpu: [f32; LONG],
    memory: [f32; LONG],
    replicas: [f32; LONG],
    /// Index of the next tick in the four columns.
    next: u8,
    /// Ticks that are kept, at most 60.
    len: u8,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            long_at: 0,
            short_at: 0,
            last_at: 0,
            short: Counts::default(),
            long: Counts::default(),
            rate: [f32::NAN; LONG],
            cpu: [f32::NAN; LONG],
            memory: [f32::NAN; LONG],
            replicas: [f32::NAN; LONG],
            next: 0,
            len: 0,
        }
    }
}

impl Ring {
    /// No tick, in the same memory.
    pub fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        *self = Self { bytes, ..Self::default() };
    }

    /// Adds a tick; the oldest leaves.
    pub fn push(&mut self, counts: &Counts, peaks: Peaks) {
        if usize::from(self.len) == LONG {
            self.long_at = self.long.exclude(&self.bytes, self.long_at);
        }
        if usize::from(self.len) >= SHORT {
            self.short_at = self.short.exclude(&self.bytes, self.short_at);
        }
        self.make_room();
        self.last_at = self.bytes.len();
        counts.encode(&mut self.bytes);
        self.short.include(counts);
        self.long.include(counts);
        let slot = usize::from(self.next);
        (self.rate[slot], self.cpu[slot], self.memory[slot]) = (peaks.rate, peaks.cpu, peaks.memory);
        self.replicas[slot] = peaks.replicas;
        self.next = ((slot + 1) % LONG) as u8;
        self.len = (self.len + 1).min(LONG as u8);
    }

    /// Moves the live bytes to the front before the buffer would grow, so that it stays about a quarter larger than its content.
    fn make_room(&mut self) {
        const LARGEST_USUAL_TICK: usize = 96;
        let kept = self.bytes.len() - self.long_at;
        if self.bytes.capacity() - self.bytes.len() >= LARGEST_USUAL_TICK {
            return;
        }
        if self.long_at > kept / 4 {
            self.bytes.copy_within(self.long_at.., 0);
            self.bytes.truncate(kept);
            self.short_at -= self.long_at;
            self.long_at = 0;
        } else {
            self.bytes.reserve_exact(kept / 4 + LARGEST_USUAL_TICK);
        }
    }

    /// Sums of the newest tick.
    pub fn last(&self) -> Counts {
        if self.len == 0 { Counts::default() } else { Counts::decode(&self.bytes, self.last_at) }
    }

    /// Sums of the last 12 ticks.
    pub fn short(&self) -> &Counts {
        &self.short
    }

    /// Sums of the last 60 ticks.
    pub fn long(&self) -> &Counts {
        &self.long
    }

    /// Values that cannot be summed, over the newest tick, the last 12 and the last 60.
    pub fn extremes(&self) -> [Extremes; 3] {
        let [cpu, memory, replicas] = [&self.cpu, &self.memory, &self.replicas].map(|column| self.largest(column));
        let trends = self.trends();
        std::array::from_fn(|span| Extremes { trend: trends[span], cpu: cpu[span], memory: memory[span], replicas: replicas[span] })
    }

    /// Slope and coefficient of variation of the arrival rate over the same ticks: by least squares over the ticks that were measured, at least two.
    fn trends(&self) -> [RateTrend; 3] {
        let mut sums = Sums::default();
        let mut short = RateTrend::default();
        for (index, rate) in self.newest(&self.rate).enumerate() {
            if index == SHORT {
                short = sums.trend();
            }
            sums.add(-(index as f64), f64::from(rate));
        }
        [RateTrend::default(), short, sums.trend()]
    }

    /// Maximum of a column over the same ticks.
    fn largest(&self, column: &[f32; LONG]) -> [Option<f64>; 3] {
        let newest = |ticks: usize| self.newest(column).take(ticks).fold(f32::NAN, f32::max);
        // The whole column in any order, four at a time: slots that were never filled hold what was not measured, and `f32::max` passes over it.
        let (fours, _) = column.as_chunks::<4>();
        let four = fours.iter().fold([f32::NAN; 4], |most, four| std::array::from_fn(|lane| f32::max(most[lane], four[lane])));
        [newest(1), newest(SHORT), four.into_iter().fold(f32::NAN, f32::max)].map(|max| (!max.is_nan()).then(|| f64::from(max)))
    }

    /// Newest first. Slots that were never filled hold what was not measured.
    fn newest<'a>(&self, column: &'a [f32; LONG]) -> impl Iterator<Item = f32> + 'a {
        let next = usize::from(self.next);
        (1..=LONG).map(move |back| column[if back <= next { next - back } else { next + LONG - back }])
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Values that cannot be summed, over some ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extremes {
    pub trend: RateTrend,
    /// Maximum CPU, thousandths of a core.
    pub cpu: Option<f64>,
    /// Maximum working set, MiB.
    pub memory: Option<f64>,
    /// Maximum number of known replicas.
    pub replicas: Option<f64>,
}

/// Trend of the arrival rate.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct RateTrend {
    /// Slope per tick.
    pub slope: Option<f64>,
    /// Coefficient of variation.
    pub variation: Option<f64>,
}

#[derive(Default)]
struct Sums {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Sums {
    /// Adds a point, or nothing where `y` was not measured: without a branch, so that a sum need not wait for the one before it.
    fn add(&mut self, x: f64, y: f64) {
        let (one, x, y) = if y.is_nan() { (0.0, 0.0, 0.0) } else { (1.0, x, y) };
        self.n += one;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
        self.yy += y * y;
    }

    fn trend(&self) -> RateTrend {
        if self.n < 2.0 {
            return RateTrend::default();
        }
        // Positive: the ticks are distinct whole numbers.
        let spread = self.n * self.xx - self.x * self.x;
        let variance = (self.n * self.yy - self.y * self.y).max(0.0) / (self.n * self.n);
        let mean = self.y / self.n;
        RateTrend { slope: Some((self.n * self.xy - self.x * self.y) / spread), variation: (mean > 0.0).then(|| variance.sqrt() / mean) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::counts::Field;
    use super::*;

    fn tick(arrived: u64) -> Counts {
        let mut counts = Counts::default();
        counts.add(Field::Arrived, arrived);
        counts.add_latency([arrived / 2, 0, arrived]);
        counts
    }

    proptest! {
        #[test]
        fn running_sums_are_the_sums_of_their_ticks(arrivals in prop::collection::vec(0u64..1 << 40, 1..200)) {
            let mut ring = Ring::default();
            for (index, &arrived) in arrivals.iter().enumerate() {
                ring.push(&tick(arrived), Peaks { rate: arrived as f32, ..Peaks::default() });
                let sum = |ticks: usize| {
                    let mut sum = Counts::default();
                    arrivals[..=index].iter().rev().take(ticks).for_each(|&arrived| sum.include(&tick(arrived)));
                    sum
                };
                prop_assert_eq!(&ring.last(), &tick(arrived));
                prop_assert_eq!(ring.short(), &sum(SHORT));
                prop_assert_eq!(ring.long(), &sum(LONG));
            }
        }

        #[test]
        fn the_buffer_stays_near_the_size_of_its_content(bytes in 1u64..1 << 40) {
            let mut ring = Ring::default();
            (0..1000).for_each(|_| ring.push(&tick(bytes), Peaks::default()));
            let mut one = Vec::new();
            tick(bytes).encode(&mut one);
            prop_assert!(ring.heap_bytes() <= one.len() * LONG * 3 / 2 + 300, "{} for {} a tick", ring.heap_bytes(), one.len());
        }
    }

    #[test]
    fn a_line_has_its_slope_and_gaps_do_not_bend_it() {
        let mut ring = Ring::default();
        for index in 0..30u32 {
            let rate = if index % 7 == 3 { f32::NAN } else { (5 + 2 * index) as f32 };
            ring.push(&Counts::default(), Peaks { rate, ..Peaks::default() });
        }
        let [last, short, long] = ring.trends();
        assert!((short.slope.expect("measured") - 2.0).abs() < 1e-9);
        assert!((long.slope.expect("measured") - 2.0).abs() < 1e-9);
        assert_eq!(last, RateTrend::default());
    }

    #[test]
    fn variation_is_the_deviation_over_the_mean() {
        let mut ring = Ring::default();
        for rate in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            ring.push(&Counts::default(), Peaks { rate, ..Peaks::default() });
        }
        // Mean 5, standard deviation 2.
        assert!((ring.trends()[2].variation.expect("measured") - 0.4).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn the_largest_are_those_of_the_ticks_in_each_span(values in prop::collection::vec(prop_oneof![Just(f32::NAN), 0.0f32..100.0], 1..150)) {
            let mut ring = Ring::default();
            values.iter().for_each(|&cpu| ring.push(&Counts::default(), Peaks { cpu, ..Peaks::default() }));
            let largest = |ticks: usize| {
                let measured = values.iter().rev().take(ticks).filter(|value| !value.is_nan());
                measured.copied().reduce(f32::max).map(f64::from)
            };
            prop_assert_eq!(ring.extremes().map(|span| span.cpu), [1, SHORT, LONG].map(largest));
        }
    }

    #[test]
    fn nothing_arriving_has_no_variation() {
        let mut ring = Ring::default();
        (0..3).for_each(|_| ring.push(&Counts::default(), Peaks { rate: 0.0, ..Peaks::default() }));
        assert_eq!(ring.trends()[1], RateTrend { slope: Some(0.0), variation: None });
    }
}
