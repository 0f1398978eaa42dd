//! The live view of many functions: totals, and a table that can be sorted and paged and whose rows can be opened. Owns
//! the selection and the appearance; must not count anything.

use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};

use super::{ChartFrame, draw_function};
use crate::dashboard::{Dashboard, FunctionRecord};
use crate::many::{self, SortOrder, SystemTotals};

const COLUMNS: [(&str, Constraint); 9] = [
    ("function", Constraint::Min(20)),
    ("agent", Constraint::Length(16)),
    ("latency / bound ms", Constraint::Length(18)),
    ("offered/s", Constraint::Length(9)),
    ("answered/s", Constraint::Length(10)),
    ("failed", Constraint::Length(6)),
    ("allocation", Constraint::Length(18)),
    ("ready", Constraint::Length(5)),
    ("cores used", Constraint::Length(10)),
];

/// Sort order, marked row and opened function.
#[derive(Debug, Default)]
pub struct FunctionTable {
    order: SortOrder,
    /// Index of the marked function in that order.
    marked: usize,
    /// Rows of a page, as last drawn.
    page: usize,
    open: Option<FunctionId>,
}

impl FunctionTable {
    /// Handles a key.
    pub fn key(&mut self, key: KeyCode, dashboard: &Dashboard, shown: &[FunctionId]) {
        let last = shown.len().saturating_sub(1);
        let page = self.page.max(1);
        match key {
            KeyCode::Down | KeyCode::Char('j') => self.marked = (self.marked + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.marked = self.marked.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.marked = (self.marked + page).min(last),
            KeyCode::PageUp => self.marked = self.marked.saturating_sub(page),
            KeyCode::Home => self.marked = 0,
            KeyCode::End => self.marked = last,
            KeyCode::Enter => self.open = self.order.sorted(dashboard, shown).get(self.marked).cloned(),
            KeyCode::Esc | KeyCode::Backspace => self.open = None,
            KeyCode::Char(letter) => {
                if let Some((_, order, _)) = SortOrder::ALL.iter().find(|(key, ..)| *key == letter) {
                    (self.order, self.marked) = (*order, 0);
                }
            }
            _ => {}
        }
    }

    /// Draws the state at `now`.
    pub fn draw(&mut self, frame: &mut Frame, area: Rect, dashboard: &Dashboard, shown: &[FunctionId], now: Timestamp) {
        if let Some(open) = &self.open {
            let [hint, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(16)]).areas(area);
            frame.render_widget(Line::from("Esc: all functions").dim(), hint);
            return draw_function(frame, body, open, dashboard.functions.get(open), now);
        }
        let [sums, plots, keys, table] =
            Layout::vertical([Constraint::Length(2), Constraint::Length(10), Constraint::Length(1), Constraint::Min(4)]).areas(area);
        frame.render_widget(
            Paragraph::new(SystemTotals::of(dashboard, shown).to_string()).wrap(ratatui::widgets::Wrap { trim: true }),
            sums,
        );
        draw_totals(frame, plots, dashboard, now);
        frame.render_widget(self.keys(shown.len()), keys);
        self.draw_table(frame, table, dashboard, shown);
    }

    fn keys(&self, count: usize) -> Line<'static> {
        let mut spans = vec![format!("{} of {count}  sort: ", (self.marked + 1).min(count)).dim()];
        for (key, order, word) in SortOrder::ALL {
            let text = format!("{key} {word}  ");
            spans.push(if order == self.order { text.bold() } else { text.dim() });
        }
        spans.push("j k PgDn PgUp move  Enter opens".dim());
        Line::from(spans)
    }

    fn draw_table(&mut self, frame: &mut Frame, area: Rect, dashboard: &Dashboard, shown: &[FunctionId]) {
        self.page = usize::from(area.height.saturating_sub(1));
        self.marked = self.marked.min(shown.len().saturating_sub(1));
        let first = self.marked / self.page.max(1) * self.page.max(1);
        let sorted = self.order.sorted(dashboard, shown);
        let rows = sorted.iter().enumerate().skip(first).take(self.page).map(|(place, id)| {
            let record = dashboard.functions.get(id);
            let row = Row::new(cells(id, record));
            let row = match record.map_or(0.0, many::severity) {
                beyond if beyond > 1.0 => row.style(Style::new().fg(Color::Red)),
                near if near > 0.8 => row.style(Style::new().fg(Color::Yellow)),
                _ => row,
            };
            if place == self.marked { row.reversed() } else { row }
        });
        let header = Row::new(COLUMNS.map(|(title, _)| title)).dim();
        frame.render_widget(Table::new(rows, COLUMNS.map(|(_, width)| width)).header(header), area);
    }
}

fn draw_totals(frame: &mut Frame, area: Rect, dashboard: &Dashboard, now: Timestamp) {
    let [rates, cores, violating] = Layout::horizontal([Constraint::Ratio(1, 3); 3]).areas(area);
    let system = &dashboard.system;
    let offered = [("offered", Color::DarkGray, &system.offered), ("answered", Color::Green, &system.achieved)];
    frame.render_widget_chart(rates, "requests/s, all functions", &offered, now);
    let allocated = [
        ("replicas", Color::DarkGray, &system.replicas),
        ("cores allocated", Color::Cyan, &system.allocated),
        ("cores used", Color::Magenta, &system.used),
    ];
    frame.render_widget_chart(cores, "cores and replicas, all functions", &allocated, now);
    frame.render_widget_chart(violating, "functions above their latency bound, %", &[("above", Color::Yellow, &system.violating)], now);
}

fn cells(id: &FunctionId, record: Option<&FunctionRecord>) -> [String; 9] {
    let Some(record) = record else {
        let mut cells = std::array::from_fn(|_| String::new());
        (cells[0], cells[1]) = (id.to_string(), "no measurement".to_owned());
        return cells;
    };
    let (state, load) = (record.state.as_ref(), record.load.as_ref());
    let unknown = || "-".to_owned();
    let latency = state.map_or_else(unknown, |state| match state.windows.tick.latency {
        Some(latency) => format!("{:.0} / {}", latency.objective_ms, state.objective.latency_ms),
        None => format!("- / {}", state.objective.latency_ms),
    });
    [
        id.to_string(),
        state.map_or_else(unknown, |state| state.agent.to_string()),
        latency,
        load.map_or_else(unknown, |load| format!("{:.1}", load.offered_rps)),
        load.map_or_else(unknown, |load| format!("{:.1}", load.achieved_rps)),
        load.map_or_else(unknown, |load| load.failures.total().to_string()),
        state.and_then(|state| state.allocation).map_or_else(unknown, |allocation| allocation.to_string()),
        state.and_then(|state| state.replicas).map_or_else(unknown, |replicas| replicas.ready.to_string()),
        state.and_then(|state| state.cores_used(&state.windows.tick)).map_or_else(unknown, |used| format!("{used:.2}")),
    ]
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::State;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn dashboard(count: usize) -> (Dashboard, Vec<FunctionId>) {
        let state: State = serde_json::from_str(include_str!("../../../../common/tests/golden/state.full.json")).expect("the golden State");
        let mut dashboard = Dashboard::default();
        for number in 1..=count {
            dashboard.state(State { function: format!("f-{number:03}").parse().expect("a label"), ..state.clone() });
        }
        let shown = dashboard.functions.keys().cloned().collect();
        (dashboard, shown)
    }

    fn screen(many: &mut FunctionTable, dashboard: &Dashboard, shown: &[FunctionId]) -> String {
        let mut terminal = Terminal::new(TestBackend::new(140, 30)).expect("a screen in memory");
        terminal.draw(|frame| many.draw(frame, frame.area(), dashboard, shown, Timestamp(0))).expect("drawn");
        let buffer = terminal.backend().buffer();
        let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>() + "\n";
        (0..buffer.area.height).map(row).collect()
    }

    #[test]
    fn hundreds_of_functions_are_paged_through() {
        let (dashboard, shown) = dashboard(200);
        let mut many = FunctionTable::default();
        let first = screen(&mut many, &dashboard, &shown);
        assert!(first.contains("200 functions, 200 measured") && first.contains("f-001") && !first.contains("f-100"), "{first}");
        many.key(KeyCode::PageDown, &dashboard, &shown);
        let second = screen(&mut many, &dashboard, &shown);
        assert!(!second.contains("f-001") && second.contains("f-020"), "{second}");
        many.key(KeyCode::End, &dashboard, &shown);
        assert!(screen(&mut many, &dashboard, &shown).contains("f-200"));
        many.key(KeyCode::Down, &dashboard, &shown);
        assert!(screen(&mut many, &dashboard, &shown).contains("200 of 200"));
    }

    #[test]
    fn one_is_opened_and_closed_again() {
        let (dashboard, shown) = dashboard(10);
        let mut many = FunctionTable::default();
        many.key(KeyCode::Char('j'), &dashboard, &shown);
        many.key(KeyCode::Enter, &dashboard, &shown);
        let open = screen(&mut many, &dashboard, &shown);
        assert!(open.contains("f-002") && !open.contains("f-003") && open.contains("Esc"), "{open}");
        many.key(KeyCode::Esc, &dashboard, &shown);
        assert!(screen(&mut many, &dashboard, &shown).contains("f-003"));
    }

    #[test]
    fn a_letter_chooses_the_order() {
        let (dashboard, shown) = dashboard(3);
        let mut many = FunctionTable::default();
        many.key(KeyCode::Char('n'), &dashboard, &shown);
        assert_eq!(many.order, SortOrder::Name);
        many.key(KeyCode::Char('x'), &dashboard, &shown);
        assert_eq!(many.order, SortOrder::Name);
    }
}
