//! `qscale import`: objects of other autoscalers as ScalingPolicies. Owns arguments and output; the conversion is that of `qscale_common::policy::import`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use qscale_common::document::{self, Format};
use qscale_common::policy::import::{ImportedPolicy, import, object};
use qscale_common::policy::text;
use qscale_common::runtime::files::{self, MAX_STATE};
use serde_json::Value;

use crate::output;

/// Print ScalingPolicy objects in place of HorizontalPodAutoscalers, VerticalPodAutoscalers and ScaledObjects.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl get hpa -A -o json | qscale import -
  kubectl get hpa,vpa,scaledobjects -n shop -o json | qscale import - > policies.yaml
  qscale import hpa.yaml | kubectl apply -f -

The mode of each policy is `recommend`. Qscale does not act as long as another autoscaler scales the workload: delete it before you set `active`.")]
pub struct ImportArgs {
    /// Files with objects of Kubernetes, .yaml or .json; - reads JSON or YAML from standard input
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<PathBuf>,
}

/// Prints the policies.
pub fn run(arguments: &ImportArgs) -> anyhow::Result<()> {
    let mut documents = Vec::new();
    for file in &arguments.files {
        documents.extend(read(file)?);
    }
    for imported in import(&documents)? {
        output::line(document(&imported).trim_end())?;
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    let (name, text, format) = if file == Path::new("-") {
        let text = files::read_standard_input(MAX_STATE)?;
        let format = text::format_of_text(&text);
        ("standard input".to_owned(), text, format)
    } else {
        (file.display().to_string(), files::read_text(file, MAX_STATE)?, Format::of(file)?)
    };
    if format == Format::Json {
        // kubectl prints lists of any length.
        return Ok(vec![serde_json::from_str(&text).with_context(|| name)?]);
    }
    let sections = document::sections(&text, format);
    sections.iter().map(|section| document::parse_value(section.text, format).with_context(|| name.clone())).collect()
}

/// A policy as a YAML document, with where it is from and what is not the same.
fn document(imported: &ImportedPolicy) -> String {
    let comments = imported.from.iter().map(|from| format!("# in place of {}\n", output::whole(from)));
    let comments = comments.chain(imported.notes.iter().map(|note| format!("# note: {}\n", output::whole(note)))).collect::<String>();
    format!("---\n{comments}{}", text::yaml(&object(&imported.policy)))
}
