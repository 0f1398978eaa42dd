//! The live view on a terminal: services, plots, latest decisions. Owns the appearance; must not count anything.

mod table;

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

use self::table::FunctionTable;
use super::dashboard::{Dashboard, FunctionRecord};
use super::supervisor::{ServiceStatus, Status, Statuses};

/// Time range of the plots: that of the data, within these bounds.
const MIN_RANGE: Duration = Duration::from_secs(30);
const MAX_RANGE: Duration = Duration::from_secs(300);

/// Most lines of the title, the services and their problems.
const MAX_HEAD: u16 = 6;

/// Up to this number of functions are shown side by side; more are shown as a table.
const SIDE_BY_SIDE: usize = 2;

/// A line of a plot: name, colour, values over time.
type Series<'a> = (&'a str, Color, &'a VecDeque<(Timestamp, f64)>);

/// The first lines of the view.
#[derive(Debug)]
pub struct ViewHeader {
    /// Title of the run.
    pub title: String,
    /// Problems of the system.
    pub problems: Vec<String>,
}

/// The terminal, or nothing without one.
pub struct View {
    terminal: Option<Terminal<CrosstermBackend<Stderr>>>,
    table: FunctionTable,
}

impl View {
    /// Takes over the terminal, if there is one and `wanted` is set.
    pub fn open(wanted: bool) -> Self {
        if !wanted || !stderr().is_terminal() {
            return Self { terminal: None, table: FunctionTable::default() };
        }
        let take = || {
            terminal::enable_raw_mode()?;
            execute!(stderr(), terminal::EnterAlternateScreen)?;
            Terminal::new(CrosstermBackend::new(stderr()))
        };
        let terminal = take().ok();
        if terminal.is_none() {
            restore();
        } else {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |information| {
                restore();
                previous(information);
            }));
        }
        Self { terminal, table: FunctionTable::default() }
    }

    /// Whether it draws on a terminal.
    pub fn is_open(&self) -> bool {
        self.terminal.is_some()
    }

    /// Draws the state at `now`.
    pub fn draw(&mut self, dashboard: &Dashboard, statuses: &Statuses, shown: &[FunctionId], head: &ViewHeader, now: Timestamp) {
        let Some(terminal) = &mut self.terminal else { return };
        let table = &mut self.table;
        let drawn = terminal.draw(|frame| {
            let lines = u16::try_from(2 + head.problems.len()).unwrap_or(u16::MAX).min(MAX_HEAD);
            let [top, body, log] =
                Layout::vertical([Constraint::Length(lines), Constraint::Min(16), Constraint::Length(9)]).areas(frame.area());
            frame.render_widget(header(statuses, head), top);
            if shown.len() > SIDE_BY_SIDE {
                table.draw(frame, body, dashboard, shown, now);
            } else {
                let columns = Layout::horizontal(shown.iter().map(|_| Constraint::Ratio(1, shown.len().max(1) as u32))).split(body);
                for (function, area) in shown.iter().zip(columns.iter()) {
                    draw_function(frame, *area, function, dashboard.functions.get(function), now);
                }
            }
            let skip = dashboard.lines.len().saturating_sub(usize::from(log.height.saturating_sub(1)));
            let lines: Vec<_> = dashboard.lines.iter().skip(skip).map(|line| Line::from(line.as_str())).collect();
            frame.render_widget(Paragraph::new(lines).block(Block::new().title("decisions that changed something").bold()), log);
        });
        if drawn.is_err() {
            // The system keeps running without a view.
            self.close();
        }
    }

    /// Handles the keys that were pressed. Returns whether the user quits, by q or Ctrl-C.
    pub fn quit_requested(&mut self, dashboard: &Dashboard, shown: &[FunctionId]) -> bool {
        if self.terminal.is_none() {
            return false;
        }
        let mut quit = false;
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else { continue };
            let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            quit |= control_c || key.code == KeyCode::Char('q');
            self.table.key(key.code, dashboard, shown);
        }
        quit
    }

    /// Restores the terminal.
    pub fn close(&mut self) {
        if self.terminal.take().is_some() {
            restore();
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.close();
    }
}

fn restore() {
    // A terminal that cannot be restored is gone.
    let _gone = terminal::disable_raw_mode();
    let _gone = execute!(stderr(), terminal::LeaveAlternateScreen);
}

fn header<'a>(statuses: &Statuses, head: &'a ViewHeader) -> Paragraph<'a> {
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
    let problems = head.problems.iter().map(|problem| Line::from(problem.as_str()).red());
    Paragraph::new([Line::from(head.title.as_str()).bold(), Line::from(services)].into_iter().chain(problems).collect::<Vec<_>>())
}

fn draw_function(frame: &mut ratatui::Frame, area: Rect, function: &FunctionId, record: Option<&FunctionRecord>, now: Timestamp) {
    let [text, rate, latency, cores] =
        Layout::vertical([Constraint::Length(3), Constraint::Ratio(1, 3), Constraint::Ratio(1, 3), Constraint::Ratio(1, 3)]).areas(area);
    let block = Block::new().title(function.to_string()).bold();
    let Some(record) = record else {
        frame.render_widget(Paragraph::new("no measurement yet").block(block), text);
        return;
    };
    frame.render_widget(Paragraph::new(describe(record)).block(block), text);
    let plot = |frame: &mut ratatui::Frame, area, title: &str, series: &[Series<'_>]| {
        frame.render_widget_chart(area, title, series, now);
    };
    plot(frame, rate, "requests/s", &[("offered", Color::DarkGray, &record.offered), ("answered", Color::Green, &record.achieved)]);
    plot(frame, latency, "latency at the objective's percentile, ms", &[("latency", Color::Yellow, &record.latency)]);
    plot(
        frame,
        cores,
        "cores and replicas",
        &[
            ("replicas", Color::DarkGray, &record.replicas),
            ("cores allocated", Color::Cyan, &record.allocated),
            ("cores used", Color::Magenta, &record.used),
        ],
    );
}

/// Load and State of a function, one line each.
pub fn describe(record: &FunctionRecord) -> Vec<Line<'static>> {
    let load = record.load.as_ref().map_or_else(
        || "no load".to_owned(),
        |load| format!("{:.1}/s offered, {:.1}/s answered, {} failed", load.offered_rps, load.achieved_rps, load.failures.total()),
    );
    let state = record.state.as_ref().map_or_else(String::new, |state| {
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
        let range = oldest.clamp(MIN_RANGE, MAX_RANGE);
        let since = now.minus(range);
        let points: Vec<Vec<(f64, f64)>> = series.iter().map(|(_, _, values)| recent(values, since, now)).collect();
        let highest = points.iter().flatten().map(|point| point.1).fold(1.0, f64::max);
        let datasets = series.iter().zip(&points).map(|((name, colour, _), points)| {
            let style = Style::new().fg(*colour);
            Dataset::default().name((*name).to_owned()).marker(Marker::Braille).graph_type(GraphType::Line).style(style).data(points)
        });
        let range = range.as_secs_f64();
        let chart = Chart::new(datasets.collect())
            .block(Block::new().title(title.to_owned().dim()))
            .x_axis(Axis::default().bounds([-range, 0.0]).labels([format!("-{range:.0}s"), "now".to_owned()]))
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
    fn the_header_shows_why_a_service_does_not_start_and_the_problems() {
        let status = ServiceStatus { status: Status::Restarting, restarts: 1, start_error: Some("no such file".to_owned()) };
        let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 3));
        let head = ViewHeader { title: "title".to_owned(), problems: vec!["disk full: 0 MiB free in /state".to_owned()] };
        header(&[("agent-dqn".to_owned(), status)].into(), &head).render(buffer.area, &mut buffer);
        let text: String = buffer.content.iter().map(Cell::symbol).collect();
        assert!(["agent-dqn", "no such file", "disk full"].iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn points_are_placed_by_age() {
        let values = VecDeque::from([(Timestamp(1_000), 1.0), (Timestamp(9_000), 2.0)]);
        assert_eq!(recent(&values, Timestamp(5_000), Timestamp(10_000)), [(-1.0, 2.0)]);
    }
}
