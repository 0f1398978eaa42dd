//! Derivation of the table from the published profile. Owns the arithmetic from a pod's average CPU to the CPU time of a request.
//!
//! A request was sent every five seconds; after a longer one, at the next multiple of five seconds. A pod's average CPU
//! above that of an idle pod, times the time between requests, is the CPU time of a request: for fibonacci-python at
//! 100,000 it is (84.5 - 48.4) thousandths of a core x 5 s = 180 ms of its 186 ms.
//!
//! Limits: CPU was read in whole thousandths of a core, 5 ms a request. Some functions that only compute show 35 to 60
//! % of their duration as CPU time at medium inputs and all of it at large ones; the table keeps the published figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::vswarm::Language;

/// Time between requests, milliseconds.
const EVERY_MS: f64 = 5_000.0;
/// Least CPU above that of an idle pod that is significant, given whole readings.
const RESOLUTION_MILLICORES: f64 = 1.0;

/// First line of the table.
const HEAD: &str = "name,language,p5_ms,p25_ms,p50_ms,p75_ms,p95_ms,p99_ms,cpu_ms,memory_mib";

#[derive(Deserialize)]
struct Published {
    duration: BTreeMap<String, f64>,
    memory: BTreeMap<String, f64>,
    cpu: BTreeMap<String, f64>,
}

/// The table from the text of `profile.json`.
///
/// # Errors
/// A deviation from the profiler's format, with the name of the variant.
pub fn table(json: &str) -> Result<String, String> {
    let published: BTreeMap<String, Published> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mut table = format!("{HEAD}\n");
    for (name, of) in &published {
        row(&mut table, name, of).map_err(|missing| format!("{name}: {missing}"))?;
    }
    Ok(table)
}

fn row(table: &mut String, name: &str, of: &Published) -> Result<(), String> {
    let at = |of: &BTreeMap<String, f64>, percentile: u32| {
        of.get(&format!("{percentile}-percentile")).copied().ok_or_else(|| format!("no percentile {percentile}"))
    };
    let language = language(name).ok_or("nobody knows what it is written in")?;
    let duration = [5, 25, 50, 75, 95, 99].map(|percentile| at(&of.duration, percentile));
    let (median, memory) = (at(&of.duration, 50)?, at(&of.memory, 50)?);
    write!(table, "{name},{}", language.word()).expect("writing to a string does not fail");
    for value in duration {
        write!(table, ",{:.2}", value?).expect("as above");
    }
    let cpu_ms = cpu_ms(language, at(&of.cpu, 50)?, median).map_or_else(String::new, |cpu_ms| format!("{cpu_ms:.1}"));
    writeln!(table, ",{cpu_ms},{memory:.0}").expect("as above");
    Ok(())
}

/// CPU time of a request; `None` if it is not significant.
fn cpu_ms(language: Language, millicores: f64, duration_ms: f64) -> Option<f64> {
    let above_idle = millicores - language.idle_millicores()?;
    if above_idle < RESOLUTION_MILLICORES {
        return None;
    }
    let every_ms = EVERY_MS * (duration_ms / EVERY_MS).ceil();
    let cpu_ms = above_idle / 1000.0 * every_ms;
    // Up to two steps of the reading above the duration do not indicate a second core.
    let error_ms = 2.0 * RESOLUTION_MILLICORES / 1000.0 * every_ms;
    Some(if cpu_ms > duration_ms && cpu_ms - error_ms <= duration_ms { duration_ms } else { cpu_ms })
}

fn language(name: &str) -> Option<Language> {
    let contains = |word: &str| name.split('-').any(|part| part == word);
    let by_name = [
        ("adservice", Language::Java),
        ("cartservice", Language::CSharp),
        ("currencyservice", Language::Node),
        ("emailservice", Language::Python),
        ("paymentservice", Language::Node),
        ("productcatalogservice", Language::Go),
        ("shippingservice", Language::Go),
    ];
    if let Some((_, language)) = by_name.into_iter().find(|(known, _)| *known == name) {
        return Some(language);
    }
    match () {
        () if contains("python") => Some(Language::Python),
        () if contains("nodejs") => Some(Language::Node),
        () if contains("go") || name.starts_with("hotel-app-") => Some(Language::Go),
        () => None,
    }
}
