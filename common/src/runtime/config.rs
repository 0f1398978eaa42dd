//! Configuration of a service: defaults, then a file, then environment, then flags. An unknown key is an error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use config::FileFormat;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::files::read_document;
use crate::document::{self, DocumentError};

/// Flags of every service.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Read configuration from this file (.toml, .yaml or .json)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Set one key, such as --set nats.url=nats://127.0.0.1:4222; wins over file and environment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the configuration that results, with every default, and end
    #[arg(long)]
    pub print_config: bool,
}

/// Loads the configuration of `service`. With `--print-config` prints it and ends the process.
///
/// The environment variable `QSCALE_COLLECTOR__NATS__URL` sets the key `nats.url` of the service `collector`.
///
/// # Errors
/// Names the file, the key and the error.
pub fn load<T: Default + Serialize + DeserializeOwned>(service: &str, args: &ConfigArgs) -> anyhow::Result<T> {
    super::clock::from_environment().map_err(anyhow::Error::msg)?;
    let loaded = resolve(service, args, environment(std::env::vars_os()))?;
    if args.print_config {
        print!("{}", render(&loaded)?);
        std::process::exit(0);
    }
    Ok(loaded)
}

/// The variables whose name and value are UTF-8. The others belong to other programs.
fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (String, String)> {
    variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// As [`load`], from the given environment, without ending the process.
///
/// # Errors
/// As [`load`].
pub fn resolve<T: Default + Serialize + DeserializeOwned>(
    service: &str,
    args: &ConfigArgs,
    environment: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<T> {
    let defaults = serde_json::to_value(T::default()).context("the defaults of the configuration")?;
    // Keys that are not set are left out: the types know their defaults, and a default must not collide with a key's former name or with the keys of
    // another variant.
    let mut layers = match &args.config {
        Some(path) => Layers::new(read_file(path)?, defaults).with_context(|| format!("configuration file {}", path.display()))?,
        None => Layers::new(Value::Object(Map::new()), defaults)?,
    };
    let prefix = format!("QSCALE_{}__", service.to_uppercase().replace('-', "_"));
    let mut variables: Vec<_> = environment.filter(|(name, _)| name.starts_with(&prefix)).collect();
    variables.sort();
    let mut texts = BTreeMap::new();
    for (name, text) in variables {
        let key = name[prefix.len()..].to_lowercase().replace("__", ".");
        layers.set(&key, &text).with_context(|| format!("environment variable {name}"))?;
        texts.insert(key, text);
    }
    for pair in &args.set {
        // Values may be secrets, so errors name the key alone; without `=` that is the text before the first other separator.
        let key = pair.split(['=', ':', ' ']).next().unwrap_or_default();
        let (key, text) =
            pair.split_once('=').with_context(|| format!("--set {key}: write KEY=VALUE, such as nats.url=nats://127.0.0.1:4222"))?;
        layers.set(key, text).with_context(|| format!("--set {key}"))?;
        texts.insert(key.to_owned(), text.to_owned());
    }
    from_tree(layers.merge()?, texts).with_context(|| match &args.config {
        Some(path) => format!("configuration of {service} (file {}, environment {prefix}*, --set)", path.display()),
        None => format!("configuration of {service} (environment {prefix}*, --set)"),
    })
}

/// Converts `tree`. A value that was assigned as a number or a boolean, and that its key refuses, is read as `texts` has it: defaults do not show that
/// an optional key takes text.
fn from_tree<T: DeserializeOwned>(mut tree: Value, mut texts: BTreeMap<String, String>) -> Result<T, DocumentError> {
    let error = match document::from_value(tree.clone()) {
        Ok(configuration) => return Ok(configuration),
        Err(error) => error,
    };
    let DocumentError::Field { field, .. } = &error else { return Err(error) };
    let Some((field, text)) = texts.remove_entry(field) else { return Err(error) };
    *place(&mut tree, &field) = Value::String(text);
    from_tree(tree, texts).map_err(|later| match &later {
        DocumentError::Field { field: refused, .. } if *refused == field => error,
        _ => later,
    })
}

/// The configuration as indented JSON, which the service can read back.
fn render<T: Serialize>(loaded: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(loaded).context("writing the configuration")? + "\n")
}

fn read_file(path: &Path) -> anyhow::Result<Value> {
    let (text, format) = read_document(path).context("configuration file")?;
    document::parse_value(&text, format).with_context(|| format!("configuration file {}", path.display()))
}

/// The layers of a configuration: a file, then keys that were set one by one, of which later ones win.
struct Layers {
    defaults: Value,
    layers: Vec<Value>,
}

impl Layers {
    fn new(file: Value, defaults: Value) -> anyhow::Result<Self> {
        // `config` takes a key of the first level for a path.
        if let Some(key) = file.as_object().and_then(|keys| keys.keys().find(|key| !is_word(key))) {
            anyhow::bail!("unknown key `{key}`; write the levels of a key below each other");
        }
        Ok(Self { defaults, layers: vec![file] })
    }

    /// Sets `key` (levels separated by dots) to `text`. The value is parsed as JSON unless the default, or the value set before, is a string.
    fn set(&mut self, key: &str, text: &str) -> anyhow::Result<()> {
        anyhow::ensure!(key.split('.').all(is_word), "`{key}` is not a key such as nats.url");
        let value_in = |layer| key.split('.').try_fold(layer, |level: &Value, part| level.get(part));
        let before = self.layers.iter().rev().find_map(value_in);
        let text_expected = before.is_some_and(Value::is_string) || value_in(&self.defaults).is_some_and(Value::is_string);
        let parsed = (!text_expected).then(|| serde_json::from_str(text).ok()).flatten();
        let mut layer = Value::Object(Map::new());
        *place(&mut layer, key) = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
        self.layers.push(layer);
        Ok(())
    }

    fn merge(&self) -> anyhow::Result<Value> {
        let sources = self.layers.iter().map(|layer| config::File::from_str(&layer.to_string(), FileFormat::Json));
        let layers = sources.fold(config::Config::builder(), |layers, source| layers.add_source(source));
        Ok(layers.build()?.try_deserialize()?)
    }
}

/// Whether `key` is one level of a key.
fn is_word(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// The value of `key` in `tree`, which is created if it is missing.
fn place<'a>(tree: &'a mut Value, key: &str) -> &'a mut Value {
    key.split('.').fold(tree, |level, part| {
        if !level.is_object() {
            *level = Value::Object(Map::new());
        }
        &mut level[part]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Sample {
        name: String,
        depth: u32,
        nested: Nested,
    }

    #[derive(Debug, PartialEq, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Nested {
        #[serde(alias = "address")]
        url: String,
        limit: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<String>,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { name: "a".into(), depth: 1, nested: Nested::default() }
        }
    }

    fn resolve_with(file: Option<(&str, &str)>, environment: &[(&str, &str)], set: &[&str]) -> anyhow::Result<Sample> {
        let folder = std::env::temp_dir().join(format!("qscale-config-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::create_dir_all(&folder).expect("temporary folder");
        let config = file.map(|(name, text)| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("temporary file");
            path
        });
        let args = ConfigArgs { config, set: set.iter().map(ToString::to_string).collect(), print_config: false };
        let result = resolve("sample", &args, environment.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        std::fs::remove_dir_all(&folder).expect("temporary folder is removed");
        result
    }

    #[test]
    fn files_that_a_parser_would_misread_are_refused() {
        let deep = "[".repeat(100_000);
        let aliases = format!("name: &a x\nnested: [{}]", "*a, ".repeat(20));
        for (text, part) in [
            ("name: \"a\0b\"", "zero byte"),
            (deep.as_str(), "nests more than"),
            (aliases.as_str(), "aliases"),
            ("- name", "keys with values"),
        ] {
            let error = format!("{:#}", resolve_with(Some(("c.yaml", text)), &[], &[]).expect_err("refused"));
            assert!(error.contains(part) && error.contains("c.yaml"), "`{part}` in {error}");
        }
        assert_eq!(resolve_with(Some(("c.yaml", "# nothing\n")), &[], &[]).expect("valid"), Sample::default());
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = Some(("c.toml", "name = \"file\"\ndepth = 2\n[nested]\nurl = \"file\"\nlimit = 5"));
        let environment = [("QSCALE_SAMPLE__NESTED__URL", "env"), ("QSCALE_SAMPLE__DEPTH", "3"), ("QSCALE_OTHER__DEPTH", "9")];
        let sample = resolve_with(file, &environment, &["depth=4"]).expect("valid");
        assert_eq!(sample, Sample { name: "file".into(), depth: 4, nested: Nested { url: "env".into(), limit: Some(5), label: None } });
    }

    #[test]
    fn text_that_looks_like_a_number_stays_text_where_text_is_expected() {
        assert_eq!(resolve_with(None, &[], &["name=123"]).expect("valid").name, "123");
    }

    #[test]
    fn optional_text_and_text_under_a_former_key_may_look_like_a_number() {
        let sample = resolve_with(None, &[("QSCALE_SAMPLE__NESTED__LABEL", "true")], &["nested.address=12345"]).expect("valid");
        assert_eq!((sample.nested.label.as_deref(), sample.nested.url.as_str()), (Some("true"), "12345"));
        let error = format!("{:#}", resolve_with(None, &[], &["nested.label=5", "nested.limit=-1"]).expect_err("below zero"));
        assert!(error.contains("nested.limit") && error.contains("integer `-1`"), "{error}");
    }

    #[test]
    fn a_variable_that_is_not_utf8_is_left_out() {
        use std::os::unix::ffi::OsStringExt as _;
        let variables = [(OsString::from("A"), OsString::from("b")), (OsString::from("C"), OsString::from_vec(vec![0xff]))];
        assert_eq!(environment(variables.into_iter()).collect::<Vec<_>>(), [("A".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        let error = format!("{:#}", resolve_with(Some(("c.yaml", "nested:\n  ulr: x")), &[], &[]).expect_err("misspelt"));
        assert!(error.contains("nested.ulr"), "{error}");
        let error = format!("{:#}", resolve_with(None, &[("QSCALE_SAMPLE__DEPTH", "deep")], &[]).expect_err("not a number"));
        assert!(error.contains("depth") && error.contains("deep"), "{error}");
        let error = format!("{:#}", resolve_with(None, &[], &["depth"]).expect_err("no value"));
        assert!(error.contains("KEY=VALUE"), "{error}");
    }

    #[test]
    fn errors_do_not_show_the_value_that_was_set() {
        for (set, key) in [(".nested.label=SECRET", "--set .nested.label: "), ("nested.label:SECRET", "--set nested.label: ")] {
            let error = format!("{:#}", resolve_with(None, &[], &[set]).expect_err("not a key"));
            assert!(error.starts_with(key) && !error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn a_key_of_a_file_is_not_a_path() {
        for (key, value) in [("x[200000000]", "1"), ("x[-9223372036854775808]", "1"), ("nested.url", "b"), ("nested[0]", "1")] {
            for file in
                [("c.yaml", format!("nested: {{url: a}}\n\"{key}\": {value}")), ("c.toml", format!("\"{key}\" = \"{value}\"\n[nested]"))]
            {
                let error = format!("{:#}", resolve_with(Some((file.0, &file.1)), &[], &[]).expect_err("unknown"));
                assert!(error.contains(&format!("unknown key `{key}`")), "{error}");
            }
        }
    }

    #[test]
    fn a_section_without_a_value_has_its_defaults() {
        for file in [("c.yaml", "nested:\n  # url: x\n"), ("c.json", r#"{"nested": null}"#)] {
            assert_eq!(resolve_with(Some(file), &[], &[]).expect("valid"), Sample::default());
        }
        assert!(
            format!("{:#}", resolve_with(Some(("c.yaml", "depth:")), &[], &[]).expect_err("a number"))
                .contains("field `depth`: invalid type: null")
        );
    }

    #[test]
    fn the_former_name_of_a_key_is_read_from_every_place() {
        let from_file = resolve_with(Some(("c.toml", "nested = { address = \"file\" }")), &[], &[]);
        assert_eq!(from_file.expect("valid").nested.url, "file");
        assert_eq!(resolve_with(None, &[("QSCALE_SAMPLE__NESTED__ADDRESS", "env")], &[]).expect("valid").nested.url, "env");
        assert_eq!(resolve_with(None, &[], &["nested.address=flag"]).expect("valid").nested.url, "flag");
    }

    #[test]
    fn a_printed_configuration_is_read_back() {
        let sample = Sample { name: "x".into(), depth: 7, nested: Nested { url: "u".into(), limit: None, label: None } };
        let printed = render(&sample).expect("printable");
        assert_eq!(resolve_with(Some(("c.json", &printed)), &[], &[]).expect("valid"), sample);
    }
}
