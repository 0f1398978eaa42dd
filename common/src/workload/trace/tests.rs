use std::io::Cursor;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::workload::{Arrivals, Iat, Scale, WorkloadRng};

const INVOCATIONS: &str = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f,http,1,0,2\no,a,g,timer,0,3,0\n";
const DURATIONS: &str = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n\
o,a,f,1,1,1,1,10,20,30,40,50,60,70\no,a,g,1,1,1,1,1,1,1,1,1,1,1\n";
const MEMORY: &str = "HashOwner,HashApp,SampleCount,AverageAllocatedMb,AverageAllocatedMb_pct1,AverageAllocatedMb_pct5,AverageAllocatedMb_pct25,AverageAllocatedMb_pct50,AverageAllocatedMb_pct75,AverageAllocatedMb_pct95,AverageAllocatedMb_pct99,AverageAllocatedMb_pct100\n\
o,a,9,100,90.5,91,92,93,94,95,96,97\n";

fn read(invocations: &[u8], durations: &[u8], memory: Option<&[u8]>, keep: Keep) -> Result<MinuteTrace, TraceError> {
    read_whole(invocations, durations, memory, keep).map(|(trace, _)| trace)
}

fn read_whole(invocations: &[u8], durations: &[u8], memory: Option<&[u8]>, keep: Keep) -> Result<(MinuteTrace, Omissions), TraceError> {
    let trace = Azure2019 { invocations, durations, memory, memory_mib: 128 };
    read_azure2019(["invocations.csv", "durations.csv", "memory.csv"], trace, keep)
}

/// Checks which functions are read, and how the omissions are described.
#[track_caller]
fn check_left_out(invocations: &str, durations: &str, memory: &str, functions: &[&str], omissions: &str) {
    let (trace, left_out) =
        read_whole(invocations.as_bytes(), durations.as_bytes(), Some(memory.as_bytes()), Keep::default()).expect("readable");
    let names: Vec<_> = trace.functions.iter().map(|function| function.hash.as_str()).collect();
    assert_eq!((names.as_slice(), left_out.to_string().as_str()), (functions, omissions));
}

fn plain(invocations: &str, durations: &str, memory: &str) -> Result<MinuteTrace, TraceError> {
    read(invocations.as_bytes(), durations.as_bytes(), Some(memory.as_bytes()), Keep::default())
}

#[track_caller]
fn refused(result: Result<MinuteTrace, TraceError>, error: &str) {
    assert_eq!(result.expect_err("refused").to_string(), error);
}

#[track_caller]
fn counts(trace: &MinuteTrace, function: usize, expected: &[(u32, u32)]) {
    let counts: Vec<_> = trace.functions[function].counts.iter().map(|count| (count.bin, count.count)).collect();
    assert_eq!(counts, expected);
}

#[test]
fn counts_durations_and_memory_are_joined_by_hash() {
    let trace = plain(INVOCATIONS, DURATIONS, MEMORY).expect("well formed");
    assert_eq!((trace.minutes, trace.invocations()), (3, 6));
    counts(&trace, 0, &[(0, 1), (2, 2)]);
    counts(&trace, 1, &[(1, 3)]);
    assert!(matches!(trace.functions[0].demand, Demand::Quantiles { .. }));
}

#[test]
fn every_variant_of_columns_says_the_same() {
    let plain = plain(INVOCATIONS, DURATIONS, MEMORY).expect("well formed");
    let variants: [(&str, String, String, String); 6] = [
        ("minute_n", INVOCATIONS.replace(",1,2,3\n", ",minute_1,minute_2,minute_3\n"), DURATIONS.into(), MEMORY.into()),
        ("minutes of the day", INVOCATIONS.replace(",1,2,3\n", ",480,481,482\n"), DURATIONS.into(), MEMORY.into()),
        ("minutes with a decimal", INVOCATIONS.replace(",1,2,3\n", ",1.0,2.0,3.0\n"), DURATIONS.into(), MEMORY.into()),
        (
            "no trigger, function first",
            "HashFunction,HashOwner,HashApp,1,2,3\nf,o,a,1,0,2\ng,o,a,0,3,0\n".into(),
            DURATIONS.replace("Average,Count,", "Count,Average,"),
            MEMORY.into(),
        ),
        (
            "memory a function",
            INVOCATIONS.into(),
            DURATIONS.into(),
            MEMORY.replace("HashOwner,", "HashFunction,HashOwner,").replace("o,a,9", "f,o,a,9") + "g,o,a,9,100,90.5,91,92,93,94,95,96,97\n",
        ),
        (
            "CRLF and case of the columns",
            INVOCATIONS.replace("Hash", "hash"),
            DURATIONS.replace('\n', "\r\n"),
            MEMORY.replace('\n', "\r\n"),
        ),
    ];
    for (name, invocations, durations, memory) in variants {
        let trace = super::tests::plain(&invocations, &durations, &memory).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(trace, plain, "{name}");
    }
}

#[test]
fn memory_may_be_left_out() {
    let trace = read(INVOCATIONS.as_bytes(), DURATIONS.as_bytes(), None, Keep::default()).expect("well formed");
    assert!(matches!(trace.functions[0].demand, Demand::QuantilesOfDuration { memory_mib: 128, .. }));
}

#[test]
fn only_the_selection_is_read() {
    let keep = Keep { functions: 1, skip_minutes: 1, minutes: 2 };
    let trace = read(INVOCATIONS.as_bytes(), DURATIONS.as_bytes(), Some(MEMORY.as_bytes()), keep).expect("well formed");
    assert_eq!((trace.functions.len(), trace.minutes), (1, 2));
    counts(&trace, 0, &[(1, 2)]);
}

#[test]
fn a_minute_has_a_bounded_number_of_invocations_after_scaling() {
    let trace = Trace::Minutes(plain(INVOCATIONS, DURATIONS, MEMORY).expect("well formed"));
    assert_eq!(trace.check_rate(20_000_000.0), Ok(()));
    let error = "rate scale = 30000000, must be at most 20000000: a function has 3 invocations in a minute of the trace";
    assert_eq!(trace.check_rate(30_000_000.0), Err(error.to_owned()));
}

#[test]
fn errors_name_file_line_column_and_value() {
    let bad = |from: &str, to: &str| plain(&INVOCATIONS.replace(from, to), DURATIONS, MEMORY);
    refused(bad("1,0,2", "1,x,2"), "invocations.csv:2, column 2: `x` is not a number");
    refused(bad("1,0,2", "1,99999999999,2"), "invocations.csv:2, column 2: `99999999999` is too large, at most 4294967295");
    let most = "invocations.csv:2, column 2: 60000001 invocations in a minute, at most 60000000 can be played";
    refused(bad("1,0,2", "1,60000001,2"), most);
    refused(bad("1,0,2", "1,inf,2"), "invocations.csv:2, column 2: `inf` is not a number");
    refused(bad("0,3,0", "0,3"), "invocations.csv:3: 6 cells, but the first line names 7 columns");
    refused(
        bad("Trigger,1,2,3", "Trigger,1,2,2"),
        "invocations.csv:1: minute 2 has two columns; the columns are HashOwner, HashApp, HashFunction, Trigger, 1, 2, 2",
    );
    refused(
        bad("HashFunction", "Function"),
        "invocations.csv:1: there is no column `HashFunction`; the columns are HashOwner, HashApp, Function, Trigger, 1, 2, 3",
    );
    refused(
        bad(",1,2,3\n", ",a,b,c\n"),
        "invocations.csv:1: there is no column of a minute, named as `1` or `minute_1`; the columns are HashOwner, HashApp, HashFunction, Trigger, a, b, c",
    );
}

#[test]
fn functions_without_a_number_of_invocations_are_left_out_and_counted() {
    for missing in ["", "nan", "NA", "null"] {
        let invocations = INVOCATIONS.replace("1,0,2", &format!("1,{missing},2"));
        check_left_out(&invocations, DURATIONS, MEMORY, &["g"], "1 function without the invocations of a minute");
    }
    for (invalid, problem) in [("-4", "`-4` is negative"), ("1.5", "`1.5` is not a whole number")] {
        let invocations = INVOCATIONS.replace("1,0,2", &format!("1,{invalid},2"));
        let expected = format!("1 function with invalid durations, memory or invocations (invocations.csv:2, column 2: {problem})");
        check_left_out(&invocations, DURATIONS, MEMORY, &["g"], &expected);
    }
}

#[test]
fn a_trace_of_more_than_a_year_of_minutes_is_refused() {
    let error = plain(&INVOCATIONS.replace(",1,2,3\n", ",1,2,28333333\n"), DURATIONS, MEMORY).expect_err("refused").to_string();
    assert!(error.starts_with("invocations.csv:1: minute 28333333 is more than 366 days after minute 1"), "{error}");
}

#[test]
fn minutes_without_a_column_are_counted() {
    let gap = INVOCATIONS.replace(",1,2,3\n", ",1,2,5\n");
    check_left_out(&gap, DURATIONS, MEMORY, &["f", "g"], "2 minutes without a column");
}

#[test]
fn control_characters_of_a_file_are_escaped_in_errors() {
    let error = plain(&INVOCATIONS.replace("1,0,2", "1,\x1b[2J,2"), DURATIONS, MEMORY).expect_err("refused").to_string();
    assert!(error.contains("`\\u{1b}[2J`"), "{error}");
    let error = plain(&INVOCATIONS.replace("HashOwner", "Owner\x07"), DURATIONS, MEMORY).expect_err("refused").to_string();
    assert!(error.contains("Owner\\u{7}"), "{error}");
}

#[test]
fn a_trace_of_dates_begins_with_its_first_invocation() {
    let read = |text: &str| read_azure2021("t.txt", text.as_bytes(), Keep::default()).expect("readable").0;
    let dates = read("app,func,end_timestamp,duration\na,f,1612000001,1\na,f,1612000061,1\n");
    assert_eq!(dates.rows.iter().map(|row| row.start_us).collect::<Vec<_>>(), [0, 60_000_000]);
    let offsets = read("app,func,end_timestamp,duration\na,f,61,1\n");
    assert_eq!(offsets.rows[0].start_us, 60_000_000);
}

#[test]
fn a_span_above_a_year_is_refused_with_its_rows() {
    let rows = "app,func,end_timestamp,duration\na,f,1700000000,1\na,f,30,1\na,f,1700000061,1\n";
    let read = |skip_minutes| read_azure2021("t.csv", rows.as_bytes(), Keep { skip_minutes, ..Keep::default() });
    let error = read(0).expect_err("refused").to_string();
    let start = "t.csv:4: this invocation is the last, and starts more than 366 days after the first, in line 3; correct";
    assert!(error.starts_with(start) && error.ends_with("--skip-minutes 28333333"), "{error}");
    assert_eq!(read(28_333_333).expect("the rest").0.rows.len(), 2);
}

#[test]
fn empty_files_are_named() {
    refused(plain("", DURATIONS, MEMORY), "invocations.csv: the file is empty; its first line must name the columns");
    let header = INVOCATIONS.lines().next().expect("a header");
    refused(plain(header, DURATIONS, MEMORY), "invocations.csv: there is no function to use in it, only the names of the columns");
    refused(plain(INVOCATIONS, "", MEMORY), "durations.csv: the file is empty; its first line must name the columns");
}

#[test]
fn functions_without_durations_or_memory_are_left_out_and_counted() {
    let one = DURATIONS.split_inclusive('\n').take(2).collect::<String>();
    check_left_out(INVOCATIONS, &one, MEMORY, &["f"], "1 function without durations");
    check_left_out(INVOCATIONS, &DURATIONS.replace("o,a,f,1,1,1,1,10", "o,a,f,1,1,1,1,"), MEMORY, &["g"], "1 function without durations");
    for missing in ["NaN", "NA", "N/A", "null", "None", "<NA>"] {
        let durations = DURATIONS.replace("10,20,30,40", &format!("10,20,30,{missing}"));
        check_left_out(INVOCATIONS, &durations, MEMORY, &["g"], "1 function without durations");
    }
    let of_function = MEMORY.replace("HashApp,", "HashApp,HashFunction,").replace("o,a,9", "o,a,g,9");
    check_left_out(INVOCATIONS, DURATIONS, &of_function, &["g"], "1 function without memory");
    refused(
        plain(INVOCATIONS, &one, &MEMORY.replace("o,a,9", "o,b,9")),
        "invocations.csv: there is no function to use in it, but 1 function without durations, 1 function without memory",
    );
}

#[test]
fn durations_and_memory_that_cannot_be_are_left_out_and_the_first_is_named() {
    let place = "durations.csv:2, column percentile_Average_50: 25 is below the percentile before it, which is 30";
    let expected = format!("1 function with invalid durations, memory or invocations ({place})");
    check_left_out(INVOCATIONS, &DURATIONS.replace("10,20,30,40", "10,20,30,25"), MEMORY, &["g"], &expected);
    let expected =
        "1 function with invalid durations, memory or invocations (durations.csv:2, column percentile_Average_0: `-41692` is negative)";
    check_left_out(INVOCATIONS, &DURATIONS.replace("10,20,30,40", "-41692,20,30,40"), MEMORY, &["g"], expected);
    refused(
        plain(INVOCATIONS, &DURATIONS.replace("10,20", "x,20"), MEMORY),
        "durations.csv:2, column percentile_Average_0: `x` is not a number",
    );
}

#[test]
fn the_first_of_repeated_rows_is_used() {
    let (invocations, durations) = (format!("{INVOCATIONS}o,a,f,http,9,9,9\n"), format!("{DURATIONS}o,a,g,1,1,1,1,2,2,2,2,2,2,2\n"));
    let memory = format!("{MEMORY}o,a,9,100,190.5,191,192,193,194,195,196,197\n");
    check_left_out(&invocations, &durations, &memory, &["f", "g"], "3 repeated rows");
    assert_eq!(plain(&invocations, &durations, &memory).expect("readable"), plain(INVOCATIONS, DURATIONS, MEMORY).expect("readable"));
}

#[test]
fn the_first_functions_are_the_first_that_can_be_used() {
    let keep = Keep { functions: 1, ..Keep::default() };
    let durations = DURATIONS.replace("o,a,f,", "o,a,h,");
    let trace = read(INVOCATIONS.as_bytes(), durations.as_bytes(), None, keep).expect("readable");
    assert_eq!(trace.functions.iter().map(|function| function.hash.as_str()).collect::<Vec<_>>(), ["g"]);
}

#[test]
fn text_that_is_not_utf8_is_an_error_with_its_place() {
    let mut bytes = INVOCATIONS.as_bytes().to_vec();
    let place = INVOCATIONS.find(",g,").expect("there") + 1;
    bytes[place] = 0xff;
    refused(read(&bytes, DURATIONS.as_bytes(), None, Keep::default()), "invocations.csv:3, column HashFunction: `\u{fffd}` is not UTF-8");
}

#[test]
fn single_invocations_start_at_their_end_less_their_duration_in_order() {
    let rows = "app,func,end_timestamp,duration\na,f,10.0,4.0\na,g,5.5,0.25\nb,f,2.0,0.001\n";
    let (trace, _) = read_azure2021("t.csv", Cursor::new(rows), Keep::default()).expect("well formed");
    assert_eq!(trace.functions, ["f", "g", "f"]);
    let starts: Vec<_> = trace.rows.iter().map(|row| (row.start_us, row.function, row.duration_ms)).collect();
    assert_eq!(starts, [(1_999_000, 2, 1), (5_250_000, 1, 250), (6_000_000, 0, 4_000)]);
}

#[test]
fn a_trace_that_starts_before_zero_is_moved() {
    let rows = "duration,app,func,end_timestamp\n3,a,f,1\n0,a,f,2\n";
    let (trace, _) = read_azure2021("t.csv", Cursor::new(rows), Keep::default()).expect("well formed");
    assert_eq!(trace.rows.iter().map(|row| row.start_us).collect::<Vec<_>>(), [0, 4_000_000]);
}

#[test]
fn malformed_single_invocations_are_named() {
    let error = |rows: &str| read_azure2021("t.csv", Cursor::new(rows), Keep::default()).expect_err("refused").to_string();
    assert_eq!(
        error("app,func,end_timestamp,duration\na,f,1,-2\n"),
        "t.csv: there is no invocation in it, 1 invocation with an invalid duration (t.csv:2, column duration: `-2` is negative)"
    );
    assert_eq!(error("app,func,end_timestamp,duration\na,f,inf,2\n"), "t.csv:2, column end_timestamp: `inf` is not a number");
    assert_eq!(
        error("app,func,end_timestamp,duration\na,f,1e300,2\n"),
        format!("t.csv:2, column end_timestamp: `{}` is more than 100 years; times are in seconds", 1e300)
    );
    assert_eq!(error("app,func,end,duration\n"), "t.csv:1: there is no column `end_timestamp`; the columns are app, func, end, duration");
    assert_eq!(error("app,func,end_timestamp,duration\n"), "t.csv: there is no invocation in it, only the names of the columns");
}

#[test]
fn single_invocations_without_an_end_or_a_duration_are_left_out_and_counted() {
    let rows = "app,func,end_timestamp,duration\na,f,,4.0\na,g,5.5,0.25\na,f,6.5,\na,f,7,NaN\na,f,8,-0.001\na,f,9,N/A\n";
    let (trace, omissions) = read_azure2021("t.csv", Cursor::new(rows), Keep::default()).expect("readable");
    let expected = "4 invocations without an end or a duration, \
                    1 invocation with an invalid duration (t.csv:6, column duration: `-0.001` is negative)";
    assert_eq!((trace.rows.len(), omissions.to_string().as_str()), (1, expected));
    let error = read_azure2021("t.csv", Cursor::new("app,func,end_timestamp,duration\na,f,,4.0\n"), Keep::default());
    assert_eq!(
        error.expect_err("nothing is left").to_string(),
        "t.csv: there is no invocation in it, 1 invocation without an end or a duration"
    );
}

#[test]
fn generated_inputs_start_after_the_sum_of_their_gaps() {
    let mut inputs = GeneratedInputs::default();
    let file = |gaps: &str, runtimes: &[f64]| {
        let demands: Vec<String> = runtimes.iter().map(|ms| format!("{{\"Runtime\": {ms}, \"Memory\": 120}}")).collect();
        format!("{{\"IAT\": {gaps}, \"PerMinuteCount\": [2], \"RuntimeSpecification\": [{}]}}", demands.join(","))
    };
    inputs.add("iat0.json", file("[1000000, 2.5e6]", &[10.5, 20.0]).as_bytes()).expect("valid");
    inputs.add("iat1.json", file("[0]", &[30.0]).as_bytes()).expect("valid");
    for (gaps, part) in [("[1]", "1 gaps"), ("[1, -5]", "-5"), ("[[1], [2]]", "expected InVitro's list"), ("[1, 1e300]", "366 days")] {
        let error = GeneratedInputs::default().add("iat2.json", file(gaps, &[1.0, 2.0]).as_bytes()).expect_err(gaps).to_string();
        assert!(error.starts_with("iat2.json") && error.contains(part), "{error}");
    }
    let negative = GeneratedInputs::default().add("iat2.json", file("[1]", &[-1.0]).as_bytes()).expect_err("negative").to_string();
    assert_eq!(negative, "iat2.json: `Runtime` is -1, must be 0 to 4294967295 milliseconds");
    let trace = inputs.finish(Keep::default()).expect("invocations");
    let rows: Vec<_> = trace.rows.iter().map(|row| (row.start_us, row.function, row.duration_ms)).collect();
    assert_eq!(rows, [(0, 1, 30), (1_000_000, 0, 10), (3_500_000, 0, 20)]);
    assert_eq!(trace.functions, ["iat0.json", "iat1.json"]);
}

#[test]
fn a_trace_knows_its_extent_and_its_functions() {
    let minutes = Trace::Minutes(plain(INVOCATIONS, DURATIONS, MEMORY).expect("well formed"));
    let rows = "app,func,end_timestamp,duration\na,f,61,1\na,g,190,1\na,f,200,1\n";
    let rows = Trace::Rows(read_azure2021("t.csv", Cursor::new(rows), Keep::default()).expect("well formed").0);
    for (trace, invocations, active) in [(&minutes, 5, (0, 2)), (&rows, 3, (1, 3))] {
        assert_eq!((trace.functions(), trace.invocations(1, 4), trace.active_minutes()), (2, invocations, Some(active)));
        assert!(trace.of_function(2).is_none());
        let parts: u64 = (0..2).map(|number| trace.of_function(number).expect("there").invocations(0, 9)).sum();
        assert_eq!(parts, trace.invocations(0, u32::MAX));
    }
}

#[test]
fn endpoints_are_read_and_checked() {
    let read = |text: &str| read_endpoints("endpoints.json", text);
    let good =
        read(r#"[{"hostname":"fib-0.default.192.168.1.240.sslip.io","eventing":false,"matchers":{}},{"hostname":"b"}]"#).expect("fine");
    assert_eq!(good.iter().map(|endpoint| endpoint.hostname.as_str()).collect::<Vec<_>>(), ["fib-0.default.192.168.1.240.sslip.io", "b"]);
    for (text, part) in [
        ("[]", "empty"),
        ("", "EOF"),
        ("{}", "expected a list"),
        (r#"[{"hostname":"http://a"}]"#, "without scheme"),
        (r#"[{"hostname":"a:80"}]"#, "without scheme"),
        (r#"[{"hostname":""}]"#, "endpoint 1"),
        (r#"[{"hostname":"a","eventing":true}]"#, "is not supported"),
        (r#"[{"host":"a"}]"#, "hostname"),
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.starts_with("endpoints.json") && error.contains(part), "{text}: {error}");
    }
}

/// Samples next to the project where it is developed; users have others.
fn sample(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

#[test]
fn published_samples_of_2019_are_read_whole() {
    for (name, functions, minutes, invocations) in
        [("azure2019-day-50", 50, 1440, 26_940), ("azure2019-day-200", 200, 1440, 155_469), ("azure2019-8h-100", 100, 480, 339_657)]
    {
        let Some(folder) = sample(name) else { continue };
        let open = |file: &str| std::fs::File::open(folder.join(file)).expect("opens");
        let trace = Azure2019 {
            invocations: open("invocations.csv"),
            durations: open("durations.csv"),
            memory: Some(open("memory.csv")),
            memory_mib: 0,
        };
        let (trace, omissions) =
            read_azure2019(["invocations.csv", "durations.csv", "memory.csv"], trace, Keep::default()).expect("well formed");
        assert_eq!(omissions, Omissions::default(), "{name}");
        assert_eq!((trace.functions.len(), trace.minutes, trace.invocations()), (functions, minutes, invocations), "{name}");
        let mut rng = WorkloadRng::seed_from_u64(1);
        let arrivals = Arrivals::minutes(&trace, Iat::Conditioned, Scale::default(), Duration::MAX, &mut rng);
        let mut last = Duration::ZERO;
        let mut count = 0;
        for arrival in arrivals {
            assert!(arrival.at >= last && arrival.duration_ms >= 1 && arrival.memory_mib >= 1);
            last = arrival.at;
            count += 1;
        }
        assert_eq!(count, invocations, "{name}");
        assert!(last < Duration::from_secs(60 * u64::from(minutes)));
    }
}

#[test]
fn the_published_sample_of_2021_is_read_whole() {
    let Some(folder) = sample("azure2021-first200") else { return };
    let file = std::fs::File::open(folder.join("Azure2021_200.csv")).expect("opens");
    let (trace, _) = read_azure2021("Azure2021_200.csv", file, Keep::default()).expect("well formed");
    assert_eq!((trace.functions.len(), trace.rows.len()), (31, 199));
    assert!(trace.rows.last().expect("rows").start_us < 1_300_000_000);
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), place in 0usize..400) {
        let mut damaged = INVOCATIONS.as_bytes().to_vec();
        let place = place % damaged.len();
        damaged.splice(place..place, bytes.iter().copied());
        let _ = read(&damaged, DURATIONS.as_bytes(), Some(MEMORY.as_bytes()), Keep::default());
        let _ = read(&bytes, &bytes, Some(&bytes), Keep::default());
        let _ = read(INVOCATIONS.as_bytes(), &damaged, Some(&damaged), Keep::default());
        let _ = read_azure2021("t.csv", &bytes[..], Keep::default());
        let _ = read_endpoints("e.json", &String::from_utf8_lossy(&bytes));
        let _ = GeneratedInputs::default().add("iat0.json", &bytes[..]);
    }
}
