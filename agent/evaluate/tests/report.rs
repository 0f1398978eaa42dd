//! Reports of results.

mod fixtures;

use fixtures::{Size, results};
use qscale_evaluate::report;
use qscale_evaluate::statistics::{Bootstrap, Summary, SummaryOptions, summarise};
use qscale_evaluate::{Measure, Results};

const SMALL: Size = Size { rules: 3, workloads: 2, perturbations: 2, seeds: 6, intervals: 20 };

fn summary(results: &Results) -> Summary {
    let bootstrap = Bootstrap { resamples: 200, confidence: 0.95, seed: 0 };
    summarise(results, &SummaryOptions { bootstrap, ..SummaryOptions::default() }).expect("a summary")
}

fn small() -> (Results, Summary) {
    let results = results(&SMALL, str::to_owned);
    let summary = summary(&results);
    (results, summary)
}

/// Names that would do harm where they are not escaped.
fn hostile() -> (Results, Summary) {
    let results = results(&SMALL, |name| format!("{name}</script><b onclick='x'>\"&|\x1b[31m"));
    let summary = summary(&results);
    (results, summary)
}

#[test]
fn the_table_of_a_terminal() {
    let (results, summary) = small();
    insta::assert_snapshot!(report::terminal(&results, &summary, 100, false));
}

#[test]
fn a_terminal_of_a_hundred_columns_is_never_overrun() {
    let results = results(&Size { rules: 11, workloads: 7, perturbations: 6, seeds: 4, intervals: 2 }, str::to_owned);
    let summary = summary(&results);
    for width in [100, 80] {
        let text = report::terminal(&results, &summary, width, false);
        let longest = text.lines().max_by_key(|line| line.chars().count()).expect("lines");
        assert!(longest.chars().count() <= width, "{width}: {longest}");
    }
}

#[test]
fn colours_are_optional() {
    let (results, summary) = small();
    let (plain, coloured) = (report::terminal(&results, &summary, 100, false), report::terminal(&results, &summary, 100, true));
    assert!(!plain.contains('\x1b'));
    let mut stripped = coloured.clone();
    for code in [0, 1, 2, 31, 32, 33] {
        stripped = stripped.replace(&format!("\x1b[{code}m"), "");
    }
    assert!(coloured != plain && stripped == plain);
    let (results, summary) = hostile();
    assert!(!report::terminal(&results, &summary, 100, false).contains('\x1b'), "a name steers the terminal");
}

#[test]
fn the_rows_of_runs() {
    let (results, _) = small();
    let text = report::csv_runs(&results);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("as many fields in every row");
    assert_eq!(rows.len(), results.groups.len() * results.settings.seeds.len());
    insta::assert_snapshot!(text.lines().take(4).collect::<Vec<_>>().join("\n"));
    // The n-th row of a group is the n-th seed, value for value.
    let headers = csv::Reader::from_reader(text.as_bytes()).headers().expect("a header").clone();
    let column = headers.iter().position(|name| name == "p95_ms").expect("named");
    let expected = results.groups[1].values(Measure::P95Ms)[2].expect("measured");
    assert_eq!(rows[results.settings.seeds.len() + 2][column].parse::<f64>().expect("a number"), expected);
}

#[test]
fn the_rows_of_a_summary() {
    let (results, summary) = small();
    let text = report::csv_summary(&results, &summary);
    let rows = csv::Reader::from_reader(text.as_bytes()).records().collect::<Result<Vec<_>, _>>().expect("as many fields in every row");
    assert!(rows.iter().any(|row| &row[0] == "cell") && rows.iter().any(|row| &row[4] == "gap_closed"));
    let kept = |line: &&str| line.starts_with("scope") || line.starts_with("all,,kpa,default");
    insta::assert_snapshot!(text.lines().filter(kept).collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_table_of_a_readme() {
    let (results, summary) = small();
    insta::assert_snapshot!(report::markdown(&results, &summary));
    let (results, summary) = hostile();
    let text = report::markdown(&results, &summary);
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    let lines: Vec<&str> = text.lines().collect();
    let tables: Vec<&[&str]> =
        lines.chunk_by(|one, next| one.starts_with("| ") == next.starts_with("| ")).filter(|part| part[0].starts_with("| ")).collect();
    assert_eq!(tables.len(), 2, "{text}");
    for table in tables {
        assert!(table.iter().all(|row| bars(row) == bars(table[0]) && !row.contains("<b")), "{text}");
    }
}

#[test]
fn equal_results_give_equal_bytes() {
    let ((results, summary), (again, summary_again)) = (small(), small());
    assert_eq!(report::terminal(&results, &summary, 100, true), report::terminal(&again, &summary_again, 100, true));
    assert_eq!(report::csv_summary(&results, &summary), report::csv_summary(&again, &summary_again));
    assert_eq!(report::markdown(&results, &summary), report::markdown(&again, &summary_again));
    assert_eq!(report::html(&results, &summary), report::html(&again, &summary_again));
}

#[test]
fn empty_results_give_an_empty_report() {
    let results = results(&Size { rules: 0, workloads: 0, perturbations: 0, seeds: 0, intervals: 0 }, str::to_owned);
    let summary = summary(&results);
    assert_eq!(report::headline(&results, &summary).len(), 1);
    assert!(report::terminal(&results, &summary, 100, false).contains(&report::headline(&results, &summary)[0]));
    well_formed(&report::html(&results, &summary));
    assert_eq!(report::csv_runs(&results).lines().count(), 1);
}

/// Follows the tags of `page` and returns how many there are: each that is opened is closed, in order, apart from those
/// that HTML leaves open.
#[track_caller]
fn well_formed(page: &str) -> usize {
    let (mut open, mut rest, mut count) = (Vec::new(), page, 0);
    while let Some(start) = rest.find('<') {
        let (end, body) = (rest[start..].find('>').expect("a tag ends") + start, &rest[start + 1..]);
        let tag = &rest[start + 1..end];
        assert!(tag.matches('"').count().is_multiple_of(2), "quotes of <{tag}>");
        let name: &str = tag.trim_start_matches('/').split([' ', '/']).next().expect("a name");
        rest = &rest[end + 1..];
        count += 1;
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "before {}", &body[..body.len().min(80)]);
        } else if !tag.ends_with('/') && !["!DOCTYPE", "meta", "br", "input"].contains(&name) {
            open.push(name);
            if name == "script" || name == "style" {
                // Their text ends at their own end tag only.
                rest = &rest[rest.find(&format!("</{name}>")).expect("it ends")..];
            }
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    count
}

#[test]
fn the_page_is_well_formed_and_names_are_text() {
    let (results, summary) = small();
    let tags = well_formed(&report::html(&results, &summary));
    let (results, summary) = hostile();
    let page = report::html(&results, &summary);
    // Names within heat tables and elsewhere add no tag.
    assert_eq!(well_formed(&page), tags);
    assert!(!page.contains("<b onclick") && !page.contains('\x1b'), "a name is heeded");
}

#[test]
fn the_page_refers_to_nothing_outside() {
    let (results, summary) = small();
    let page = report::html(&results, &summary);
    for reference in ["http://", "https://", "src=", "href=", "url(", "@import", "fetch(", "XMLHttpRequest", "import("] {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn a_page_of_a_large_suite_stays_small() {
    let results = results(&Size { rules: 11, workloads: 7, perturbations: 6, seeds: 12, intervals: 240 }, str::to_owned);
    let bootstrap = Bootstrap { resamples: 10, confidence: 0.95, seed: 0 };
    let summary = summarise(&results, &SummaryOptions { bootstrap, ..SummaryOptions::default() }).expect("a summary");
    let page = report::html(&results, &summary);
    well_formed(&page);
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/report.html"), &page).expect("a place to look at it");
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
}
