//! Text form of a decision tree: indented rules that a person reads and this program reads back. Owns the format.
//!
//! The first line is `qscale-tree 1`. Fields follow, `key = value`; then the rules, two spaces deeper at each condition: `if FEATURE <= THRESHOLD`, the
//! rules for that, `else`, the rules for the rest; and `take ACTION, N of M samples`. Then the ranges of the features in training. A comment begins with `#` and repeats
//! the line in the quantities behind the features. Thresholds are in the scale of the features, with all digits, so that a tree is read back exactly.

use std::fmt;
use std::fmt::Write as _;

use qscale_common::policy::ViolationCost;

use qscale_common::document::compression;
use thiserror::Error;

use super::{DecisionTree, FeatureRanges, MAX_DEPTH, TreeHeader, TreeLeaf, TreeNode};
use crate::actions::{ActionSet, Actions};
use crate::observation::quantity::QUANTITIES;
use crate::observation::{self, FEATURES};

/// First line.
const MAGIC: &str = "qscale-tree 1";
/// Violation cost of each function's default.
const DEFAULT: &str = "default";
/// Spaces of each level.
const INDENT: usize = 2;
/// Longest part of a line in an error, characters.
const SHOWN: usize = 80;

/// Longest accepted text, bytes. The deepest tree has about 2 MB.
pub const MAX_BYTES: usize = 4 << 20;

/// Why a text is not a decision tree.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TreeError {
    /// Longer than the limit.
    #[error("decision tree of {0} bytes exceeds the limit of {MAX_BYTES}")]
    Oversized(usize),
    /// An invalid line.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Value, expectation and remedy.
        reason: String,
    },
}

impl fmt::Display for DecisionTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TreeHeader { model, action_set, scope, violation_cost, seed } = &self.header;
        writeln!(f, "{MAGIC}")?;
        writeln!(f, "# Rules that imitate a trained model. A rule's comment is in the units of the quantities; what acts is the rule.")?;
        writeln!(
            f,
            "# Under a steady load the 15-minute peak is provided, whatever the rules say. An action that cannot be taken is replaced by that, too."
        )?;
        writeln!(f, "model = {model}")?;
        writeln!(f, "observation = {}", observation::VERSION)?;
        writeln!(f, "action_set = {action_set}")?;
        writeln!(f, "scope = {scope}")?;
        match violation_cost {
            Some(cost) => writeln!(f, "violation_cost = {}", cost.get())?,
            None => writeln!(f, "violation_cost = {DEFAULT}")?,
        }
        writeln!(f, "seed = {seed}\n")?;
        let mut rules = RuleWriter { f, names: self.actions().names(), samples: self.root.samples().max(1) as f64 };
        rules.node(&self.root, 0)?;
        writeln!(
            f,
            "\n# Mean and inverse spread of each feature in the training of the model, and of its specialist if there is one. An observation"
        )?;
        writeln!(f, "# far from these is out of distribution, and the fallback rule decides.")?;
        for (index, feature) in FEATURES.iter().enumerate() {
            write!(f, "range {}", feature.name)?;
            self.ranges.iter().try_for_each(|ranges| write!(f, " {} {}", ranges.shift[index], ranges.scale[index]))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Writes the rules.
struct RuleWriter<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    names: Vec<String>,
    samples: f64,
}

impl RuleWriter<'_, '_> {
    fn node(&mut self, node: &TreeNode, depth: usize) -> fmt::Result {
        match node {
            TreeNode::Leaf(TreeLeaf { action, samples, equal }) => {
                let rule = format!("take {}, {equal} of {samples} samples", self.names[*action]);
                let percent = |part: u64, of: f64| format!("{:.1} %", part as f64 / of.max(1.0) * 100.0);
                let comment =
                    format!("{} of all, {} equal to the model", percent(*samples, self.samples), percent(*equal, *samples as f64));
                self.line(depth, &rule, &comment)
            }
            TreeNode::Split { feature, at_most, low, high } => {
                let quantity = &QUANTITIES[*feature];
                let rule = format!("if {} <= {at_most}", FEATURES[*feature].name);
                let below = quantity.condition(*at_most, false);
                let colon = if below.starts_with('<') { " " } else { ": " };
                self.line(depth, &rule, &format!("{}{colon}{below}", quantity.meaning))?;
                self.node(low, depth + 1)?;
                self.line(depth, "else", &format!("{}{colon}{}", quantity.meaning, quantity.condition(*at_most, true)))?;
                self.node(high, depth + 1)
            }
        }
    }

    fn line(&mut self, depth: usize, rule: &str, comment: &str) -> fmt::Result {
        let mut line = format!("{:indent$}{rule}", "", indent = depth * INDENT);
        let width = (line.len() + 2).next_multiple_of(8);
        write!(line, "{:1$}", "", width - line.len())?;
        writeln!(self.f, "{line}# {comment}")
    }
}

impl DecisionTree {
    /// Reads a tree from the bytes of its text.
    ///
    /// # Errors
    /// Names the line that is not valid, or does not match this program.
    pub fn parse(bytes: &[u8]) -> Result<Self, TreeError> {
        if bytes.len() > MAX_BYTES {
            return Err(TreeError::Oversized(bytes.len()));
        }
        let first = |reason: String| TreeError::Line { line: 1, reason };
        if let Some(format) = compression(bytes) {
            return Err(first(format!("the file is compressed ({format}); decompress it first")));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            TreeError::Line { line, reason: "not UTF-8".into() }
        })?;
        if text.lines().next() != Some(MAGIC) {
            return Err(first(format!("not a decision tree: the first line must be `{MAGIC}`, as `qscale model distil` writes it")));
        }
        let without_comment = |line: &'_ str| line.split_once('#').map_or(line.len(), |(rule, _)| rule.len());
        let lines = text.lines().enumerate().skip(1).map(|(index, line)| (index + 1, line[..without_comment(line)].trim_end()));
        let lines: Vec<(usize, &str)> = lines.filter(|(_, line)| !line.is_empty()).collect();
        let mut reader = LineReader { lines: &lines, next: 0, last: text.lines().count() };
        let header = reader.header()?;
        let actions = Actions::new(header.action_set, header.scope).names();
        let (at, root) = (reader.line_number(), reader.node(&actions, 0)?);
        let ranges = reader.ranges()?;
        if let Some((line, text)) = reader.peek() {
            return Err(invalid(line, text, "must be the end of the file"));
        }
        Self { header, root, ranges }.checked().map_err(|reason| TreeError::Line { line: at, reason })
    }
}

/// Reads lines without comments in order.
struct LineReader<'a> {
    lines: &'a [(usize, &'a str)],
    next: usize,
    /// Number of the last line of the file.
    last: usize,
}

fn invalid(line: usize, text: &str, expected: &str) -> TreeError {
    let shown: String = text.trim().chars().take(SHOWN).collect();
    TreeError::Line { line, reason: format!("`{}`, {expected}", shown.escape_debug()) }
}

impl<'a> LineReader<'a> {
    fn peek(&self) -> Option<(usize, &'a str)> {
        self.lines.get(self.next).copied()
    }

    /// Number of the next line.
    fn line_number(&self) -> usize {
        self.peek().map_or(self.last, |(line, _)| line)
    }

    fn take(&mut self, expected: &str) -> Result<(usize, &'a str), TreeError> {
        let taken = self.peek().ok_or_else(|| TreeError::Line { line: self.last, reason: format!("the file ends, {expected}") })?;
        self.next += 1;
        Ok(taken)
    }

    /// The value of the field `key`, read by `read`.
    fn field<T>(&mut self, key: &str, expected: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, TreeError> {
        let expected = format!("must be `{key} = {expected}`");
        let (line, text) = self.take(&expected)?;
        let value = text.split_once('=').filter(|(found, _)| found.trim() == key && text.starts_with(key)).map(|(_, value)| value.trim());
        value.and_then(read).ok_or_else(|| invalid(line, text, &expected))
    }

    fn header(&mut self) -> Result<TreeHeader, TreeError> {
        let is_fingerprint = |value: &&str| value.len() == 16 && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let model = self.field("model", "16 hexadecimal digits", |value| Some(value).filter(is_fingerprint).map(str::to_owned))?;
        let version = observation::VERSION;
        let of_this_program = format!("{version}, the version of this program; distil the model again");
        self.field("observation", &of_this_program, |value| (value.parse() == Ok(version)).then_some(()))?;
        Ok(TreeHeader {
            model,
            action_set: self.field("action_set", "headroom, step or grid", |value| value.parse::<ActionSet>().ok())?,
            scope: self.field("scope", "horizontal, vertical or joint", |value| value.parse().ok())?,
            violation_cost: self.field("violation_cost", "default, or a number from 10 to 20000", |value| match value {
                DEFAULT => Some(None),
                number => number.parse::<f64>().ok().and_then(|number| ViolationCost::try_from(number).ok()).map(Some),
            })?,
            seed: self.field("seed", "a number", |value| value.parse().ok())?,
        })
    }

    /// The rule at `depth` with the rules below it.
    fn node(&mut self, actions: &[String], depth: usize) -> Result<TreeNode, TreeError> {
        let expected = format!("must be `if FEATURE <= THRESHOLD` or `take ACTION, N of M samples` after {} spaces", depth * INDENT);
        let (line, text) = self.take(&expected)?;
        let rule = rule(text, depth).ok_or_else(|| invalid(line, text, &expected))?;
        if let Some(leaf) = rule.strip_prefix("take ") {
            return self::leaf(leaf, actions).map(TreeNode::Leaf).map_err(|expected| invalid(line, text, &expected));
        }
        if depth >= MAX_DEPTH as usize {
            return Err(invalid(line, text, &format!("the rules are deeper than {MAX_DEPTH} conditions")));
        }
        let condition = rule.strip_prefix("if ").and_then(|condition| condition.split_once(" <= "));
        let (name, threshold) = condition.ok_or_else(|| invalid(line, text, &expected))?;
        let feature = FEATURES.iter().position(|feature| feature.name == name.trim());
        let feature = feature.ok_or_else(|| invalid(line, text, "must name a feature of the observation"))?;
        let at_most = number(threshold).ok_or_else(|| invalid(line, text, "must have a finite threshold"))?;
        let low = Box::new(self.node(actions, depth + 1)?);
        let expected = format!("must be `else` after {} spaces, for the `if` of line {line}", depth * INDENT);
        let (other, text) = self.take(&expected)?;
        if self::rule(text, depth) != Some("else") {
            return Err(invalid(other, text, &expected));
        }
        let high = Box::new(self.node(actions, depth + 1)?);
        Ok(TreeNode::Split { feature, at_most, low, high })
    }

    fn ranges(&mut self) -> Result<Vec<FeatureRanges>, TreeError> {
        let mut ranges: Vec<FeatureRanges> = Vec::new();
        for feature in FEATURES {
            let expected = format!("must be `range {} MEAN INVERSE-SPREAD`, with the same number of numbers on all lines", feature.name);
            let (line, text) = self.take(&expected)?;
            let mut words = text.split(' ');
            let named = words.next() == Some("range") && words.next() == Some(feature.name);
            let numbers: Option<Vec<f32>> = words.map(number).collect();
            let numbers = numbers.filter(|numbers| named && [2, 4].contains(&numbers.len()));
            let numbers = numbers.filter(|numbers| ranges.is_empty() || ranges.len() * 2 == numbers.len());
            let numbers = numbers.ok_or_else(|| invalid(line, text, &expected))?;
            ranges.resize_with(numbers.len() / 2, || FeatureRanges { shift: Vec::new(), scale: Vec::new() });
            for (ranges, pair) in ranges.iter_mut().zip(numbers.chunks_exact(2)) {
                ranges.shift.push(pair[0]);
                ranges.scale.push(pair[1]);
            }
        }
        Ok(ranges)
    }
}

/// `text` without its indentation, if that is the one of `depth`.
fn rule(text: &str, depth: usize) -> Option<&str> {
    let rule = text.trim_start_matches(' ');
    (text.len() - rule.len() == depth * INDENT).then_some(rule)
}

fn number(text: &str) -> Option<f32> {
    text.parse().ok().filter(|number: &f32| number.is_finite())
}

/// The leaf `ACTION, N of M samples`.
fn leaf(text: &str, actions: &[String]) -> Result<TreeLeaf, String> {
    let expected = "must be `take ACTION, N of M samples` with N at most M";
    let (name, counts) = text.rsplit_once(", ").ok_or(expected)?;
    let action = actions.iter().position(|known| known == name);
    let action = action.ok_or_else(|| format!("must take one of the actions {}", actions.join("; ")))?;
    let (equal, samples) = counts.strip_suffix(" samples").and_then(|counts| counts.split_once(" of ")).ok_or(expected)?;
    let (equal, samples) = (equal.parse().map_err(|_| expected)?, samples.parse().map_err(|_| expected)?);
    if equal > samples { Err(expected.to_owned()) } else { Ok(TreeLeaf { action, samples, equal }) }
}
