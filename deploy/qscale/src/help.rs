//! `qscale --help`: the commands in groups. Owns the groups; the description of a command is its own.

use std::fmt::Write as _;

use clap::Command;
use clap::builder::styling::Styles;

/// Every visible command by group, in the order of the help.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Run", &["up", "function", "platform", "agent", "bus"]),
    ("Operate", &["policy", "import", "model", "key", "finetune", "freeze", "unfreeze", "restore", "doctor"]),
    ("Understand", &["watch", "changes", "why", "replay", "compare", "assess"]),
    ("Experiment", &["evaluate", "train", "ablate", "reproduce", "profile", "validate"]),
    ("Other", &["completions", "help"]),
];

/// `command` with its subcommands listed by group.
pub fn grouped(command: Command) -> Command {
    let styles = Styles::styled();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let width = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or(0);
    let mut list = String::new();
    for (group, names) in GROUPS {
        let _infallible = writeln!(list, "{header}{group}:{header:#}");
        for name in names {
            let about = about(&command, name);
            let _infallible = writeln!(list, "  {literal}{name:<width$}{literal:#}  {about}");
        }
        list.push('\n');
    }
    let template =
        format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}{header}Options:{header:#}\n{{options}}{{after-help}}");
    command.help_template(template)
}

fn about(command: &Command, name: &str) -> String {
    let found = command.get_subcommands().find(|command| command.get_name() == name);
    match found.and_then(Command::get_about) {
        Some(about) => about.to_string(),
        None => "Print this message or the help of a command".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::Cli;

    #[test]
    fn every_command_is_listed_exactly_once() {
        let mut listed: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().filter(|name| *name != "help").collect();
        let command = Cli::command();
        let mut commands: Vec<&str> = command.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name).collect();
        listed.sort_unstable();
        commands.sort_unstable();
        assert_eq!(listed, commands);
    }

    #[test]
    fn help_has_every_group_and_the_global_options() {
        let help = grouped(Cli::command()).render_long_help().to_string();
        for (group, names) in GROUPS {
            assert!(help.contains(&format!("\n{group}:\n")), "{help}");
            assert!(names.iter().all(|name| help.contains(&format!("\n  {name} "))), "{help}");
        }
        assert!(help.contains("--state-dir"), "{help}");
    }

    #[test]
    fn options_of_the_connection_follow_those_of_a_command() {
        let mut command = Cli::command();
        command.build();
        for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let (name, help) = (command.get_name().to_owned(), command.render_long_help().to_string());
            let (own, connection) = help.split_once("Connection to a system:").unwrap_or_else(|| panic!("{name}: {help}"));
            assert!(!own.contains("--state-dir") && connection.contains("--state-dir"), "{name}: {help}");
        }
    }

    #[test]
    fn every_command_has_examples() {
        let mut command = Cli::command();
        command.build();
        for command in command.get_subcommands_mut().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
            let (name, help) = (command.get_name().to_owned(), command.render_long_help().to_string());
            assert!(help.contains("Examples:\n"), "{name}: {help}");
        }
    }
}
