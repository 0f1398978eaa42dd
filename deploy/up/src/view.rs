//! The live view: plots and last decisions on a terminal, a line now and then elsewhere. Owns what it looks like; must not count anything.

mod many;

use std::collections::VecDeque;
use std::io::{IsTerminal, Stderr, stderr};
use std::time::Duration;

use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::{execute, terminal};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph};

use self::many::Many;
use super::board::{Board, Entry};
use super::supervisor::{ServiceStatus, Status, Statuses};

/// How far the plots look back: as far as there is something to see, within these.
const SHORTEST_LOOK_BACK: Duration = Duration::from_secs(30);
const LONGEST_LOOK_BACK: Duration = Duration::from_secs(300);

/// Functions that are shown side by side; more are shown as a table.
const SIDE_BY_SIDE: usize = 2;

/// A line of a plot: its name, its colour, and its values over time.
type Series<'a> = (&'a str, Color, &'a VecDeque<(Timestamp, f64)>);

/// A terminal that is drawn on, or nothing where there is none.
pub struct View {
    terminal: Option<Terminal<CrosstermBackend<Stderr>>>,
    many: Many,
}

impl View {
    /// Takes the terminal over, where there is one and `wanted` says so.
    pub fn open(wanted: bool) -> Self {
        if !wanted || !stderr().is_terminal() {
            return Self { terminal: None, many: Many::default() };
        }
        let take = || {
            terminal::enable_raw_mode()?;
            execute!(stderr(), terminal::EnterAlternateScreen)?;
            Terminal::new(CrosstermBackend::new(stderr()))
        };
        let terminal = take().ok();
        if terminal.is_none() {
            give_back();
        } else {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |information| {
                give_back();
                previous(information);
            }));
        }
        Self { terminal, many: Many::default() }
    }

    /// Whether there is a terminal to draw on.
    pub fn is_open(&self) -> bool {
        self.terminal.is_some()
    }

    /// Draws everything as it stands at `now`.
    pub fn draw(&mut self, board: &Board, statuses: &Statuses, shown: &[FunctionId], title: &str, now: Timestamp) {
        let Some(terminal) = &mut self.terminal else { return };
        let many = &mut self.many;
        let drawn = terminal.draw(|frame| {
            let [head, body, log] =
                Layout::vertical([Constraint::Length(2), Constraint::Min(16), Constraint::Length(9)]).areas(frame.area());
            frame.render_widget(header(statuses, title), head);
            if shown.len() > SIDE_BY_SIDE {
                many.draw(frame, body, board, shown, now);
            } else {
                let columns = Layout::horizontal(shown.iter().map(|_| Constraint::Ratio(1, shown.len().max(1) as u32))).split(body);
                for (function, area) in shown.iter().zip(columns.iter()) {
                    draw_function(frame, *area, function, board.functions.get(function), now);
                }
            }
            let skip = board.lines.len().saturating_sub(usize::from(log.height.saturating_sub(1)));
            let lines: Vec<_> = board.lines.iter().skip(skip).map(|line| Line::from(line.as_str())).collect();
            frame.render_widget(Paragraph::new(lines).block(Block::new().title("decisions that changed something").bold()), log);
        });
        if drawn.is_err() {
            // The terminal is gone; the system goes on without it.
            self.terminal = None;
        }
    }

    /// Takes in the keys that were pressed. Whether the person asked to end: q or Ctrl-C.
    pub fn asked_to_end(&mut self, board: &Board, shown: &[FunctionId]) -> bool {
        if self.terminal.is_none() {
            return false;
        }
        let mut asked = false;
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else { continue };
            let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            asked |= control_c || key.code == KeyCode::Char('q');
            self.many.key(key.code, board, shown);
        }
        asked
    }

    /// Gives the terminal back.
    pub fn close(&mut self) {
        if self.terminal.take().is_some() {
            give_back();
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.close();
    }
}

fn give_back() {
    // A terminal that cannot be given back is gone.
    let _gone = terminal::disable_raw_mode();
    let _gone = execute!(stderr(), terminal::LeaveAlternateScreen);
}

fn header<'a>(statuses: &Statuses, title: &'a str) -> Paragraph<'a> {
    let mut services = vec!["services: ".dim()];
    for (name, ServiceStatus { status, restarts, start_error }) in statuses {
        let colour = match status {
            Status::Running { .. } => Color::Green,
            Status::Restarting => Color::Red,
            Status::Ended(_) => Color::DarkGray,
        };
        services.push(ratatui::text::Span::styled(name.clone(), colour));
        services.push(match start_error {
            Some(reason) => format!(" ({reason})  ").red(),
            None if *restarts > 0 => format!(" ({restarts} restarts)  ").dim(),
            None => "  ".into(),
        });
    }
    Paragraph::new(vec![Line::from(title).bold(), Line::from(services)])
}

fn draw_function(frame: &mut ratatui::Frame, area: Rect, function: &FunctionId, entry: Option<&Entry>, now: Timestamp) {
    let [text, rate, latency, cores] =
        Layout::vertical([Constraint::Length(3), Constraint::Ratio(1, 3), Constraint::Ratio(1, 3), Constraint::Ratio(1, 3)]).areas(area);
    let block = Block::new().title(function.to_string()).bold();
    let Some(entry) = entry else {
        frame.render_widget(Paragraph::new("nothing measured yet").block(block), text);
        return;
    };
    frame.render_widget(Paragraph::new(describe(entry)).block(block), text);
    let plot = |frame: &mut ratatui::Frame, area, title: &str, series: &[Series<'_>]| {
        frame.render_widget_chart(area, title, series, now);
    };
    plot(frame, rate, "requests a second", &[("offered", Color::DarkGray, &entry.offered), ("answered", Color::Green, &entry.achieved)]);
    plot(frame, latency, "latency of the objective's percentile, ms", &[("latency", Color::Yellow, &entry.latency)]);
    plot(
        frame,
        cores,
        "cores and replicas",
        &[
            ("replicas", Color::DarkGray, &entry.replicas),
            ("cores allocated", Color::Cyan, &entry.allocated),
            ("cores used", Color::Magenta, &entry.used),
        ],
    );
}

/// Two lines on how a function stands.
pub fn describe(entry: &Entry) -> Vec<Line<'static>> {
    let load = entry.load.as_ref().map_or_else(
        || "no load".to_owned(),
        |load| format!("{:.1}/s offered, {:.1}/s answered, {} failed", load.offered_rps, load.achieved_rps, load.failures.total()),
    );
    let state = entry.state.as_ref().map_or_else(String::new, |state| {
        let allocation = state.allocation.map_or_else(|| "allocation unknown".to_owned(), |allocation| allocation.to_string());
        let ready = state.replicas.map_or_else(String::new, |replicas| format!(", {} ready", replicas.ready));
        let latency = state.windows.tick.latency.map_or_else(
            || "no latency measured".to_owned(),
            |latency| format!("p{} {:.0} ms (bound {} ms)", state.objective.percentile, latency.objective_ms, state.objective.latency_ms),
        );
        format!("{}: {allocation}{ready}; {latency}", state.agent)
    });
    vec![Line::from(load), Line::from(state)]
}

trait ChartFrame {
    fn render_widget_chart(&mut self, area: Rect, title: &str, series: &[Series<'_>], now: Timestamp);
}

impl ChartFrame for ratatui::Frame<'_> {
    fn render_widget_chart(&mut self, area: Rect, title: &str, series: &[Series<'_>], now: Timestamp) {
        let oldest = series.iter().filter_map(|(_, _, values)| Some(now.since(values.front()?.0))).max().unwrap_or_default();
        let look_back = oldest.clamp(SHORTEST_LOOK_BACK, LONGEST_LOOK_BACK);
        let since = now.minus(look_back);
        let points: Vec<Vec<(f64, f64)>> = series.iter().map(|(_, _, values)| recent(values, since, now)).collect();
        let highest = points.iter().flatten().map(|point| point.1).fold(1.0, f64::max);
        let datasets = series.iter().zip(&points).map(|((name, colour, _), points)| {
            let style = Style::new().fg(*colour);
            Dataset::default().name((*name).to_owned()).marker(Marker::Braille).graph_type(GraphType::Line).style(style).data(points)
        });
        let look_back = look_back.as_secs_f64();
        let chart = Chart::new(datasets.collect())
            .block(Block::new().title(title.to_owned().dim()))
            .x_axis(Axis::default().bounds([-look_back, 0.0]).labels([format!("-{look_back:.0}s"), "now".to_owned()]))
            .y_axis(Axis::default().bounds([0.0, highest * 1.1]).labels(["0".to_owned(), format!("{highest:.1}")]));
        self.render_widget(chart, area);
    }
}

fn recent(values: &VecDeque<(Timestamp, f64)>, since: Timestamp, now: Timestamp) -> Vec<(f64, f64)> {
    values.iter().filter(|(at, _)| *at >= since).map(|(at, value)| (-now.since(*at).as_secs_f64(), *value)).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::buffer::{Buffer, Cell};
    use ratatui::widgets::Widget;

    use super::*;

    #[test]
    fn the_header_shows_why_a_service_does_not_start() {
        let status = ServiceStatus { status: Status::Restarting, restarts: 1, start_error: Some("no such file".to_owned()) };
        let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 2));
        header(&[("agent-dqn".to_owned(), status)].into(), "title").render(buffer.area, &mut buffer);
        let text: String = buffer.content.iter().map(Cell::symbol).collect();
        assert!(text.contains("agent-dqn") && text.contains("no such file"), "{text}");
    }

    #[test]
    fn points_lie_at_their_age() {
        let values = VecDeque::from([(Timestamp(1_000), 1.0), (Timestamp(9_000), 2.0)]);
        assert_eq!(recent(&values, Timestamp(5_000), Timestamp(10_000)), [(-1.0, 2.0)]);
    }
}
