//! Checks of a suite. Owns the rules between its fields; each error names the field, its value and a remedy.

use std::collections::BTreeSet;
use std::time::Duration;

use qscale_common::name::Name;
use qscale_common::policy::Bounds;
use qscale_common::range::OutOfRange;
use qscale_common::time::Span;
use qscale_common::units::Allocation;

use super::{Selection, Suite, SuiteError};

type Checked = Result<(), SuiteError>;

fn refused(field: impl Into<String>, reason: impl Into<String>) -> SuiteError {
    SuiteError::Field { field: field.into(), reason: reason.into() }
}

fn out_of_range(error: OutOfRange) -> SuiteError {
    refused(error.field, format!("{}, must be {}", error.value, error.range))
}

/// Checks bounds and initial allocation of the functions at `place`: a simulated replica takes memory.
fn check_allocation(place: &str, bounds: &Bounds, start: Allocation) -> Checked {
    bounds.largest().check(&format!("{place}.bounds.")).map_err(out_of_range)?;
    if bounds.contain(start) { Ok(()) } else { Err(refused(format!("{place}.start"), format!("{start}, must be within the bounds"))) }
}

impl Suite {
    /// Checks all fields.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn check(&self) -> Checked {
        self.check_times()?;
        self.check_names()?;
        self.functions.iter().enumerate().try_for_each(|(index, function)| {
            let place = format!("functions[{index}]");
            check_allocation(&place, &function.bounds, function.start)?;
            function.nodes.map_or(Ok(()), |nodes| nodes.check(&format!("{place}.nodes.")).map_err(out_of_range))
        })?;
        self.workloads.iter().enumerate().try_for_each(|(index, _)| self.check_workload(index))?;
        self.perturbations.iter().enumerate().try_for_each(|(index, _)| self.check_perturbation(index))?;
        self.check_trace()?;
        self.check_competitors()?;
        self.check_selections("cells", &self.cells)?;
        self.check_selections("tuning.cells", &self.tuning.cells)?;
        self.check_selections("timelines", &self.timelines)?;
        self.check_selections("quick.cells", &self.quick.cells)
    }

    fn check_times(&self) -> Checked {
        for (field, count) in [("seeds", self.seeds), ("tuning.seeds", self.tuning.seeds), ("quick.seeds", self.quick.seeds)] {
            if !(1..=10_000).contains(&count) {
                return Err(refused(field, format!("{count}, must be 1 to 10000")));
            }
        }
        if !(1..=10_000).contains(&self.tuning.settings) {
            return Err(refused("tuning.settings", format!("{}, must be 1 to 10000", self.tuning.settings)));
        }
        if self.planning.passes > 100 {
            return Err(refused("planning.passes", format!("{}, must be 0 to 100", self.planning.passes)));
        }
        let interval = self.interval.0;
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&interval) {
            return Err(refused("interval", format!("{}, must be 1s to 1h", self.interval)));
        }
        for (field, span) in [("warm_up", self.warm_up), ("length", self.length)] {
            if !whole(span.0, interval) || span.0 > Duration::from_secs(30 * 24 * 3600) {
                return Err(refused(field, format!("{span}, must be a multiple of the interval of {} and at most 30days", self.interval)));
            }
        }
        if self.trace.is_none() && self.length.0 <= self.warm_up.0 {
            return Err(refused("length", format!("{}, must be longer than the warm-up of {}", self.length, self.warm_up)));
        }
        if !whole(interval, self.tick.duration()) {
            return Err(refused("tick", format!("{}, must divide the interval of {}", Span(self.tick.duration()), self.interval)));
        }
        Ok(())
    }

    fn check_names(&self) -> Checked {
        unique("functions", self.functions.iter().map(|function| function.name.as_str()))?;
        unique("workloads", self.workloads.iter().map(|workload| workload.name.as_str()))?;
        unique("perturbations", self.perturbations.iter().map(|perturbation| perturbation.name.as_str()))?;
        unique("competitors", self.competitors.iter().map(|entry| entry.called()))
    }

    fn check_workload(&self, index: usize) -> Checked {
        let workload = &self.workloads[index];
        if let Some(noise) = workload.noise {
            let field = |name: &str| format!("workloads[{index}].noise.{name}");
            if !(noise.sigma > 0.0 && noise.sigma <= 2.0) {
                return Err(refused(field("sigma"), format!("{}, must be above 0 and at most 2", noise.sigma)));
            }
            if !(0.0..1.0).contains(&noise.memory) {
                return Err(refused(field("memory"), format!("{}, must be 0 to below 1", noise.memory)));
            }
            if noise.every.0 < Duration::from_secs(1) {
                return Err(refused(field("every"), format!("{}, must be at least 1s", noise.every)));
            }
        }
        for (function, entry) in self.functions.iter().enumerate() {
            let scaled = workload.pattern.scaled(entry.rate.per_second());
            scaled.map_err(|error| refused(format!("functions[{function}].rate"), format!("with workload {}: {error}", workload.name)))?;
        }
        match workload.disturbed.iter().find(|at| at.0 >= self.length.0) {
            Some(at) => {
                Err(refused(format!("workloads[{index}].disturbed"), format!("{at}, must be within the length of {}", self.length)))
            }
            None => Ok(()),
        }
    }

    fn check_perturbation(&self, index: usize) -> Checked {
        let entry = &self.perturbations[index];
        let place = format!("perturbations[{index}]");
        for function in &self.functions {
            let checked = entry.perturbation.check(function.nodes.as_ref());
            checked.map_err(|error| refused(&place, format!("with function {}: {error}", function.name)))?;
        }
        if self.trace.is_some() {
            entry.perturbation.check(None).map_err(|error| refused(&place, error.to_string()))?;
        } else if let Some(share) = entry.cpu_share {
            return Err(refused(
                format!("{place}.cpu_share"),
                format!("{}, is valid only with a [trace], which has durations; remove it", share.get()),
            ));
        } else if entry.vertical.is_some() {
            let reason = "is valid only with a [trace]; a function of the suite has bounds of its own".to_owned();
            return Err(refused(format!("{place}.vertical"), reason));
        }
        Ok(())
    }

    fn check_trace(&self) -> Checked {
        let patterns = !self.functions.is_empty() || !self.workloads.is_empty();
        let Some(trace) = &self.trace else {
            return match (self.functions.is_empty(), self.workloads.is_empty()) {
                (false, false) => Ok(()),
                (true, _) => Err(refused("functions", "none is listed; list at least one, or describe traces under [trace]")),
                (_, true) => Err(refused("workloads", "none is listed; list at least one")),
            };
        };
        if patterns {
            return Err(refused("trace", "functions and workloads are listed as well; a suite is for patterns or for traces"));
        }
        if trace.split.iter().map(|share| u64::from(*share)).sum::<u64>() != 100 || trace.split[2] == 0 {
            let [training, validation, test] = trace.split;
            return Err(refused("trace.split", format!("{training}/{validation}/{test}, must sum to 100 with a test part above 0")));
        }
        for (field, value, most) in [("slack_share", trace.slack_share, 100.0), ("peak_factor", trace.peak_factor, 1000.0)] {
            if !(0.0..=most).contains(&value) {
                return Err(refused(format!("trace.{field}"), format!("{value}, must be 0 to {most}")));
            }
        }
        check_allocation("trace", &trace.bounds, trace.start)
    }

    fn check_competitors(&self) -> Checked {
        if self.competitors.is_empty() {
            return Err(refused("competitors", "none is listed; list at least one"));
        }
        for (index, entry) in self.competitors.iter().enumerate() {
            let field = |name: &str| format!("competitors[{index}].{name}");
            if let Some(tick) = entry.tick
                && !whole(self.interval.0, tick.duration())
            {
                return Err(refused(field("tick"), format!("{}, must divide the interval of {}", Span(tick.duration()), self.interval)));
            }
            let settings = entry.settings().map_err(|error| refused(field("grid"), error))?;
            if settings.len() > self.tuning.settings {
                let (tried, most) = (settings.len(), self.tuning.settings);
                return Err(refused(
                    field("grid"),
                    format!("{tried} settings including the default, must be at most {most} (tuning.settings)"),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_selections(&self, field: &str, selections: &[Selection]) -> Checked {
        let functions: Vec<&Name> = self.functions.iter().map(|function| &function.name).collect();
        let workloads: Vec<&Name> = self.workloads.iter().map(|workload| &workload.name).collect();
        let perturbations: Vec<&Name> = self.perturbations.iter().map(|perturbation| &perturbation.name).collect();
        for (index, selection) in selections.iter().enumerate() {
            let kinds = [
                ("functions", &selection.functions, &functions),
                ("workloads", &selection.workloads, &workloads),
                ("perturbations", &selection.perturbations, &perturbations),
            ];
            for (kind, named, known) in kinds {
                if let Some(name) = named.iter().find(|name| !known.contains(name)) {
                    let known: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
                    let known = if known.is_empty() { "none is listed".to_owned() } else { format!("must be one of {}", known.join(", ")) };
                    return Err(refused(format!("{field}[{index}].{kind}"), format!("`{name}`, {known}")));
                }
            }
        }
        Ok(())
    }
}

/// Whether `whole` is a multiple of `part`.
fn whole(whole: Duration, part: Duration) -> bool {
    !part.is_zero() && whole.as_nanos().is_multiple_of(part.as_nanos())
}

fn unique<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Checked {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            return Err(refused(format!("{kind}[{index}].name"), format!("`{name}` is listed twice; rename one of them")));
        }
    }
    Ok(())
}
