//! `qscale policy`: ScalingPolicies in their bucket. Owns arguments and output; validation is that of `qscale_common::policy`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Subcommand, ValueEnum};
use qscale_common::contract::subject;
use qscale_common::control::{self, Control};
use qscale_common::document::Format;
use qscale_common::name::FunctionId;
use qscale_common::policy::text::{self, Change};
use qscale_common::policy::{self, Mode, OnDelete, Range, ScalingPolicy, WorkloadKind};
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::runtime::files::{self, MAX_DOCUMENT};
use qscale_common::runtime::kv::{self, Edited};
use qscale_common::runtime::signature::{PolicyReader, TrustConfig};
use qscale_common::runtime::{operator, policies};
use qscale_common::time::Span;

use crate::author::{AuthorArgs, SignerArgs};
use crate::function;
use crate::output::{self, Table, TableCell, Tone};
use crate::system::Locate;

/// A commented ScalingPolicy, printed by `qscale policy example`.
const EXAMPLE: &str = include_str!("policy/example.yaml");

/// Actions on ScalingPolicies.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  qscale policy example > fibonacci.yaml
  qscale policy apply fibonacci.yaml
  qscale policy set fibonacci agent=mine mode=active bounds.replicas.max=6
  qscale policy list")]
pub enum PolicyCommand {
    /// Create or change ScalingPolicies; nothing is written unless all files are valid
    Apply {
        /// Files that end in .yaml, .toml or .json; - reads standard input. A YAML file may hold several documents, separated by ---
        #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        files: Vec<PathBuf>,
        /// Format of standard input; by default detected from the text
        #[arg(long, value_enum)]
        format: Option<FormatArg>,
        /// Print what would change and write nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        signer: SignerArgs,
    },
    /// Print a ScalingPolicy as YAML for `apply`
    Get {
        /// namespace/name, or name
        #[arg(value_name = "NAME")]
        function: FunctionId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List all ScalingPolicies
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Delete ScalingPolicies; the functions keep their allocation, or get the original one back where `on_delete` is `restore`
    Delete {
        /// namespace/name, or name
        #[arg(required = true, value_name = "NAME")]
        functions: Vec<FunctionId>,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// Change fields of a ScalingPolicy
    Set {
        /// namespace/name, or name
        #[arg(value_name = "NAME")]
        function: FunctionId,
        /// Field and value; null resets a field to its default
        #[arg(required = true, value_name = "FIELD=VALUE")]
        changes: Vec<Change>,
        #[command(flatten)]
        signer: SignerArgs,
    },
    /// Print the JSON Schema of a ScalingPolicy
    Schema,
    /// Print a commented example
    Example,
}

/// Format of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// YAML
    Yaml,
    /// TOML
    Toml,
    /// JSON
    Json,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Format {
        match format {
            FormatArg::Yaml => Format::Yaml,
            FormatArg::Toml => Format::Toml,
            FormatArg::Json => Format::Json,
        }
    }
}

/// Runs the command.
pub async fn run(locate: &Locate, command: PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Apply { files, format, dry_run, signer } => {
            apply(locate, &files, format.map(Format::from), (!dry_run).then_some(signer)).await
        }
        PolicyCommand::Get { function, json } => get(&locate.bus().await?, &function, json).await,
        PolicyCommand::List { json } => list(&locate.bus().await?, &locate.trust()?.policies, json).await,
        PolicyCommand::Delete { functions, author } => delete(&author.author(&locate.bus().await?), &functions).await,
        PolicyCommand::Set { function, changes, signer } => set(locate, &function, &changes, signer).await,
        PolicyCommand::Schema => output::json(&qscale_common::schema::policy()),
        PolicyCommand::Example => output::line(EXAMPLE.trim_end()),
    }
}

/// Applies the policies of `files`; without a signer it only prints what would change.
async fn apply(locate: &Locate, files: &[PathBuf], format: Option<Format>, signer: Option<SignerArgs>) -> anyhow::Result<()> {
    let policies = read_all(files, format)?;
    let bus = locate.bus().await?;
    check_platform(locate, policies.iter()).await?;
    warn_of_unlikely_values(&policies);
    let author = signer.map(|signer| signer.author(locate, &bus, &locate.trust()?.policies)).transpose()?;
    let store = kv::open(&bus, subject::POLICY_BUCKET).await?;
    for policy in &policies {
        let function = policy.function();
        match &author {
            Some(author) => {
                // An invalid value is replaced like a missing one.
                let edit = policies::edit(author, &function, |_| Ok(policy.clone()), clock::now()).await?;
                print_edit(policy, Some(edit.edited), edit.before.as_ref())?;
            }
            None => {
                let value = store.get(function.tokens()).await.with_context(|| format!("failed to read policy {function}"))?;
                print_edit(policy, None, value.and_then(|value| ScalingPolicy::from_json(&value).ok()).as_ref())?;
            }
        }
    }
    warn_of_superseded(&bus, &policies).await?;
    warn_of_missing_functions(locate, policies.iter()).await;
    Ok(())
}

/// Prints an edit; without `edited`, one that would be made.
fn print_edit(policy: &ScalingPolicy, edited: Option<Edited>, before: Option<&ScalingPolicy>) -> anyhow::Result<()> {
    let function = policy.function();
    let would = if edited.is_none() { "would be " } else { "" };
    let is_new = edited.map_or(before.is_none(), |edited| matches!(edited, Edited::Created { .. }));
    match before {
        _ if is_new => output::line(format_args!("policy {function} {would}created: {}", summary(policy))),
        Some(before) if before == policy && !matches!(edited, Some(Edited::Changed { .. })) => {
            output::line(format_args!("policy {function} unchanged"))
        }
        Some(before) if before == policy => output::line(format_args!("policy {function} signed")),
        Some(before) => output::line(format_args!("policy {function} {would}changed: {}", text::differences(before, policy).join(", "))),
        None => output::line(format_args!("policy {function} {would}changed: the previous one was invalid")),
    }
}

fn summary(policy: &ScalingPolicy) -> String {
    format!("agent {}, mode {}", policy.agent, mode(policy.mode))
}

/// Reads every document of every file, in order, before anything is written.
fn read_all(files: &[PathBuf], format: Option<Format>) -> anyhow::Result<Vec<ScalingPolicy>> {
    let mut policies: Vec<ScalingPolicy> = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        match read_one(file, format) {
            Ok(documents) => {
                for policy in documents {
                    let function = policy.function();
                    if policies.iter().any(|earlier| earlier.function() == function) {
                        bail!("{}: policy {function} is defined twice", file.display());
                    }
                    policies.push(policy);
                }
            }
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if errors.is_empty() { Ok(policies) } else { bail!("{}", errors.join("\nerror: ")) }
}

fn read_one(file: &Path, format: Option<Format>) -> anyhow::Result<Vec<ScalingPolicy>> {
    let (name, text, format) = if file == Path::new("-") {
        let text = files::read_standard_input(MAX_DOCUMENT)?;
        let format = format.unwrap_or_else(|| text::format_of_text(&text));
        ("standard input".to_owned(), text, format)
    } else {
        let format = Format::of(file).or_else(|error| format.ok_or(error))?;
        (file.display().to_string(), files::read_text(file, MAX_DOCUMENT)?, format)
    };
    ScalingPolicy::from_documents(&text, format).with_context(|| name)
}

/// Checks the bounds of policies against those of the platform, if it answers: what no allocation can satisfy is refused, what is only beyond its largest
/// allocation is a warning.
async fn check_platform<'a>(locate: &Locate, policies: impl Iterator<Item = &'a ScalingPolicy>) -> anyhow::Result<()> {
    let Some(platform) = function::platform_bounds(locate).await else { return Ok(()) };
    let mut errors = Vec::new();
    for policy in policies.filter(|policy| policy.workload.kind == WorkloadKind::Local) {
        let ScalingPolicy { bounds, .. } = policy;
        let checks = [
            beyond_platform("replicas", bounds.replicas, platform.replicas),
            beyond_platform("cpu_millicores", bounds.cpu_millicores, platform.cpu_millicores),
            beyond_platform("memory_mib", bounds.memory_mib, platform.memory_mib),
        ];
        for found in checks.into_iter().flatten() {
            match found {
                BeyondPlatform::Refused(why) => errors.push(format!("policy {}: {why}", policy.function())),
                BeyondPlatform::Limited(why) => output::warn(format_args!("policy {}: {why}", policy.function())),
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("\nerror: ")) }
}

/// A bound that the platform cannot apply.
#[derive(Debug, PartialEq)]
enum BeyondPlatform {
    /// The minimum is outside the range of the platform.
    Refused(String),
    /// The maximum is above that of the platform, which limits it.
    Limited(String),
}

fn beyond_platform<T: Copy + Ord + Display>(field: &str, bounds: Range<T>, platform: Range<T>) -> Option<BeyondPlatform> {
    let (least, most) = (platform.min(), platform.max());
    if !platform.contains(bounds.min()) {
        let (min, limit) = (bounds.min(), platform.clamp(bounds.min()));
        let remedy = if min < least { "at least" } else { "at most" };
        return Some(BeyondPlatform::Refused(format!(
            "bounds.{field}.min = {min}, but the platform can apply {least} to {most}; set it to {remedy} {limit}"
        )));
    }
    (bounds.max() > most).then(|| {
        BeyondPlatform::Limited(format!(
            "bounds.{field}.max = {}, but the platform can apply {least} to {most}: {most} is the maximum",
            bounds.max()
        ))
    })
}

async fn get(bus: &Bus, function: &FunctionId, json: bool) -> anyhow::Result<()> {
    let store = kv::open(bus, subject::POLICY_BUCKET).await?;
    let value = store
        .get(function.tokens())
        .await
        .with_context(|| format!("failed to read policy {function}"))?
        .with_context(|| no_policy(function))?;
    let policy = ScalingPolicy::from_json(&value).with_context(|| format!("policy {function} is invalid; apply it again"))?;
    if json {
        return output::json(&policy);
    }
    output::line(format_args!("# ScalingPolicy {function}. Edit and apply with `qscale policy apply FILE`."))?;
    output::line(text::yaml(&serde_json::to_value(&policy)?).trim_end())
}

fn no_policy(function: &FunctionId) -> String {
    format!("policy {function} does not exist; `qscale policy list` lists the existing ones")
}

async fn list(bus: &Bus, trust: &TrustConfig, json: bool) -> anyhow::Result<()> {
    let policies = kv::policies(bus, trust).await?;
    let invalid = policies.iter().filter_map(|(key, policy)| policy.as_ref().err().map(|error| (key, error)));
    for (key, error) in invalid {
        output::warn(format_args!("policy {key} is refused: {}; services keep the one that they read before", output::clean(error)));
    }
    let valid: Vec<&ScalingPolicy> = policies.values().filter_map(|policy| policy.as_ref().ok()).collect();
    if json {
        return output::json(&valid);
    }
    if valid.is_empty() {
        return output::line("no policies; `qscale policy example` prints one to start from");
    }
    let controls = kv::controls(bus).await?;
    let mut table = Table::new(&["FUNCTION", "MODE", "AGENT", "TICK", "OBJECTIVE", "REPLICAS", "CPU", "MEMORY", "HELD"]);
    for policy in valid {
        let (objective, bounds) = (&policy.objective, &policy.bounds);
        let held = held(policy, &controls);
        table.row([
            TableCell::new(policy.function(), Tone::Strong),
            TableCell::new(mode(policy.mode), if policy.mode == Mode::Active { Tone::Good } else { Tone::Plain }),
            (&policy.agent).into(),
            Span(policy.tick.duration()).into(),
            format!("p{} ≤ {}", output::number(objective.percentile.get()), Span(objective.latency.get())).into(),
            format!("{}-{}", bounds.replicas.min(), bounds.replicas.max()).into(),
            format!("{}-{}", bounds.cpu_millicores.min(), bounds.cpu_millicores.max()).into(),
            format!("{}-{}", bounds.memory_mib.min(), bounds.memory_mib.max()).into(),
            TableCell::new(&held, if held == "-" { Tone::Dim } else { Tone::Warn }),
        ]);
    }
    table.print()
}

/// Conditions that restrict changes of a function.
fn held(policy: &ScalingPolicy, controls: &BTreeMap<String, Control>) -> String {
    let frozen = |key: &str| controls.get(key).is_some_and(|control| control.frozen);
    let mut held = Vec::new();
    if frozen(control::ALL) {
        held.push("frozen (all)");
    } else if frozen(&Control::key(&policy.function())) {
        held.push("frozen");
    }
    if policy.paused {
        held.push("paused");
    }
    if policy.scale_up_only {
        held.push("up only");
    }
    if held.is_empty() { "-".into() } else { held.join(", ") }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Recommend => "recommend",
        Mode::Active => "active",
    }
}

async fn delete(author: &Author, functions: &[FunctionId]) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for function in functions {
        match policies::delete(author, function, clock::now()).await? {
            Some(OnDelete::Keep) => output::line(format_args!("policy {function} deleted; the function keeps its allocation"))?,
            Some(OnDelete::Restore) => {
                operator::restore_after_deletion(author, function, clock::now()).await.with_context(|| {
                    format!("policy {function} is deleted, but its function was not restored; use `qscale restore {function}`")
                })?;
                output::line(format_args!("policy {function} deleted; the function gets the allocation from before the first change"))?;
            }
            None => missing.push(no_policy(function)),
        }
    }
    if missing.is_empty() { Ok(()) } else { bail!("{}", missing.join("\nerror: ")) }
}

async fn set(locate: &Locate, function: &FunctionId, changes: &[Change], signer: SignerArgs) -> anyhow::Result<()> {
    let bus = locate.bus().await?;
    let store = kv::open(&bus, subject::POLICY_BUCKET).await?;
    let trust = locate.trust()?.policies;
    let change = |current: Option<&[u8]>| {
        let value = current.with_context(|| no_policy(function))?;
        // What another program wrote must not be signed along with the change.
        let before = PolicyReader::new(&trust).read(&function.tokens(), value);
        let before = before.map_err(|error| anyhow!("policy {function} cannot be changed, apply it again: {error}"))?;
        let after = text::changed(&before, changes)?;
        anyhow::Ok((before, after))
    };
    let current = store.get(function.tokens()).await.with_context(|| format!("failed to read policy {function}"))?;
    let (before, after) = change(current.as_deref())?;
    if before.bounds != after.bounds {
        check_platform(locate, std::iter::once(&after)).await?;
    }
    warn_of_unlikely_values(std::slice::from_ref(&after));
    let author = signer.author(locate, &bus, &trust)?;
    let edit = policies::edit(&author, function, |current| Ok(change(current)?.1), clock::now()).await?;
    print_edit(&edit.after, Some(edit.edited), edit.before.as_ref())?;
    warn_of_superseded(&bus, std::slice::from_ref(&edit.after)).await?;
    warn_of_missing_functions(locate, std::iter::once(&edit.after)).await;
    Ok(())
}

/// Warns about each of `policies` that scales the workload of another one: only one of the two acts.
async fn warn_of_superseded(bus: &Bus, policies: &[ScalingPolicy]) -> anyhow::Result<()> {
    let known = kv::policies(bus, &TrustConfig::default()).await?;
    let written = |known: &&ScalingPolicy| !policies.iter().any(|policy| policy.function() == known.function());
    let all = known.values().filter_map(|policy| policy.as_ref().ok()).filter(written).chain(policies);
    for (policy, acting) in policy::superseded(all) {
        if policies.iter().any(|written| [&policy, &acting].contains(&&written.function())) {
            output::warn(format_args!(
                "policy {policy} does not act, as policy {acting} scales the same workload; remove one with `qscale policy delete`"
            ));
        }
    }
    Ok(())
}

/// Warns about values that are valid but unlikely to be intended.
fn warn_of_unlikely_values(policies: &[ScalingPolicy]) {
    for (policy, why) in policies.iter().flat_map(|policy| policy.warnings().into_iter().map(move |why| (policy, why))) {
        output::warn(format_args!("policy {}: {why}", policy.function()));
    }
}

/// Warns about ScalingPolicies without a function, if the platform answers.
async fn warn_of_missing_functions(locate: &Locate, policies: impl Iterator<Item = &ScalingPolicy>) {
    let Some(known) = function::known(locate).await else { return };
    for policy in policies.filter(|policy| policy.workload.kind == WorkloadKind::Local) {
        let workload = FunctionId::new(policy.namespace.clone(), policy.workload_name().clone());
        if !known.contains(&workload) {
            output::warn(format_args!("the platform has no function {workload}; add it with `qscale function add FILE`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_is_valid() {
        let policy = ScalingPolicy::from_document(EXAMPLE, Format::Yaml).expect("valid");
        assert_eq!(policy.function().to_string(), "default/fibonacci");
    }

    #[test]
    fn bounds_beyond_the_platform_are_refused_or_limited() {
        let range = |min, max| Range::new(min, max).expect("a range");
        let platform = range(10, 2000);
        assert_eq!(beyond_platform("cpu_millicores", range(10, 2000), platform), None);
        let Some(BeyondPlatform::Refused(why)) = beyond_platform("cpu_millicores", range(1, 500), platform) else { panic!("refused") };
        assert_eq!(why, "bounds.cpu_millicores.min = 1, but the platform can apply 10 to 2000; set it to at least 10");
        let Some(BeyondPlatform::Refused(why)) = beyond_platform("cpu_millicores", range(3000, 4000), platform) else { panic!("refused") };
        assert!(why.ends_with("at most 2000"), "{why}");
        let Some(BeyondPlatform::Limited(why)) = beyond_platform("cpu_millicores", range(100, 4000), platform) else { panic!("limited") };
        assert!(why.contains("max = 4000") && why.contains("2000 is the maximum"), "{why}");
    }

    #[test]
    fn documents_of_all_files_are_read_in_order() {
        let folder = qscale_tests::Folder::new("policies");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let two = write("two.yaml", "\u{feff}name: b\r\n---\r\nname: a\r\n");
        let one = write("one.json", "\u{feff}{\"name\": \"c\"}");
        let names = |files: &[PathBuf]| {
            read_all(files, None).map(|policies| policies.into_iter().map(|policy| policy.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(names(&[one.clone(), two.clone()]).expect("valid"), ["c", "b", "a"]);
        assert!(names(&[two.clone(), two]).expect_err("twice").to_string().contains("default/b is defined twice"));
        let wrong = write("wrong.yaml", "name: b\n---\nname: a\nmode: activ\n");
        let error = names(&[wrong]).expect_err("invalid").to_string();
        assert!(error.contains("wrong.yaml") && error.contains("document 2") && error.contains("mode"), "{error}");
        assert!(names(&[folder.path().to_owned()]).is_err());
    }

    #[test]
    fn restrictions_of_a_function_are_listed() {
        let mut policy = ScalingPolicy::new("f".parse().expect("valid"));
        assert_eq!(held(&policy, &BTreeMap::new()), "-");
        policy.paused = true;
        let frozen = Control { frozen: true, ..Control::default() };
        for one in [frozen.clone(), Control::from_json(b"broken")] {
            assert_eq!(held(&policy, &BTreeMap::from([("default.f".to_owned(), one)])), "frozen, paused");
        }
        let all = BTreeMap::from([(control::ALL.to_owned(), frozen), ("default.f".to_owned(), Control::from_json(b"broken"))]);
        assert_eq!(held(&policy, &all), "frozen (all), paused");
    }
}
