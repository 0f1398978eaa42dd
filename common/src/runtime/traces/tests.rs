use super::*;

const INVOCATIONS: &str = "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,1,2\no,a,g,http,3,4\n";
const DURATIONS: &str = "HashOwner,HashApp,HashFunction,percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n\
o,a,f,1,2,3,4,5,6,7\no,a,g,1,2,3,4,5,6,7\n";
const MEMORY: &str = "HashOwner,HashApp,AverageAllocatedMb_pct1,AverageAllocatedMb_pct5,AverageAllocatedMb_pct25,AverageAllocatedMb_pct50,AverageAllocatedMb_pct75,AverageAllocatedMb_pct95,AverageAllocatedMb_pct99,AverageAllocatedMb_pct100\n\
o,a,1,2,3,4,5,6,7,8\n";
const SINGLE: &str = "app,func,end_timestamp,duration\na,f,10,1\n";

/// A trace in a folder with these files, opened at the folder or at one of the files.
fn opened_at(files: &[(&str, &str)], at: &str) -> anyhow::Result<OpenedTrace> {
    let folder = tempfile::tempdir().expect("a folder");
    files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).expect("written"));
    open_trace(&folder.path().join(at), Keep::default(), 128)
}

/// Checks the number of invocations and parts of the description, or parts of the error.
#[track_caller]
fn check(files: &[(&str, &str)], at: &str, expected: Result<u64, ()>, parts: &[&str]) {
    let text = match (opened_at(files, at), expected) {
        (Ok(found), Ok(invocations)) => {
            assert_eq!(found.trace.invocations(0, u32::MAX), invocations, "{}", found.description);
            found.description
        }
        (Err(error), Err(())) => format!("{error:#}"),
        (found, _) => panic!("{found:?}"),
    };
    parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` in {text}"));
}

const OFFICIAL: [(&str, &str); 3] = [
    ("invocations_per_function_md.anon.d01.csv", INVOCATIONS),
    ("function_durations_percentiles.anon.d01.csv", DURATIONS),
    ("app_memory_percentiles.anon.d01.csv", MEMORY),
];

#[test]
fn the_files_of_a_trace_are_found_by_their_names() {
    let own = [("invocations.csv", INVOCATIONS), ("durations.csv", DURATIONS), ("memory.csv", MEMORY), ("dag_structure.csv", "x")];
    check(&own, "", Ok(10), &["2 functions, 2 minutes, 10 invocations"]);
    check(&own[..2], "", Ok(10), &["without memory"]);
    check(&OFFICIAL, "", Ok(10), &["day 1, 2 functions"]);
    check(&OFFICIAL, OFFICIAL[0].0, Ok(10), &["day 1, 2 functions"]);
    let mixed = [("invocations.csv", INVOCATIONS), OFFICIAL[1], OFFICIAL[2]];
    check(&mixed, "", Ok(10), &["2 functions"]);
    check(&own[..1], "", Err(()), &["no durations.csv"]);
    check(&OFFICIAL[..1], "", Err(()), &["function_durations_percentiles.anon.d01.csv"]);
    check(&[], "", Err(()), &["no .csv file"]);
    check(&[("a.csv", SINGLE), ("b.csv", SINGLE)], "", Err(()), &["no invocations.csv among a.csv, b.csv"]);
}

#[test]
fn files_of_other_names_are_found_by_their_columns() {
    let other = [("50_inv.csv", INVOCATIONS), ("50_run.csv", DURATIONS), ("50_mem.csv", MEMORY), ("notes.csv", "x")];
    check(&other, "", Ok(10), &["2 functions, 2 minutes, 10 invocations"]);
    check(&other, "50_inv.csv", Ok(10), &["2 functions"]);
    check(&other[..2], "", Ok(10), &["without memory"]);
    check(&other[..1], "", Err(()), &["no durations.csv"]);
    check(&other[1..], "", Err(()), &["no invocations.csv among 50_mem.csv, 50_run.csv, notes.csv"]);
    let two = [other[0], ("99_inv.csv", INVOCATIONS), other[1]];
    check(&two, "", Err(()), &["50_inv.csv", "99_inv.csv", "rename"]);
    check(&[other[0], ("durations.csv", DURATIONS)], "", Ok(10), &["2 functions"]);
}

#[test]
fn compressed_files_are_named() {
    check(&[("invocations.csv.gz", "\u{1f}"), ("durations.csv.gz", "\u{1f}")], "", Err(()), &["invocations.csv.gz", "decompress"]);
    check(&[("a.txt", SINGLE), ("b.txt", SINGLE)], "", Err(()), &["a.txt, b.txt"]);
}

#[test]
fn the_day_that_is_used_is_named_and_can_be_selected() {
    let second = INVOCATIONS.replace("o,a,f,http,1,2\n", "o,a,f,http,7,9\n");
    let days = [
        OFFICIAL[0],
        OFFICIAL[1],
        OFFICIAL[2],
        ("invocations_per_function_md.anon.d02.csv", &second),
        ("function_durations_percentiles.anon.d02.csv", DURATIONS),
        ("app_memory_percentiles.anon.d02.csv", MEMORY),
        ("invocations_per_function_md.anon.d14.csv", INVOCATIONS),
    ];
    check(&days, "", Ok(10), &["day 1 of the days 1, 2, 14", "give its invocations file"]);
    check(&days, days[3].0, Ok(23), &["day 2 of the days 1, 2, 14"]);
    check(&days, days[6].0, Err(()), &["no durations", ".d14.csv"]);
    check(&days[3..], "", Ok(23), &["day 2"]);
    check(&[&days[1..], &[]].concat(), "", Ok(23), &["day 2"]);
}

#[test]
fn single_invocations_are_found_by_their_names() {
    let published = ("AzureFunctionsInvocationTraceForTwoWeeksJan2021.txt", SINGLE);
    check(&[published], published.0, Ok(1), &["1 function, 1 minute, 1 invocation"]);
    check(&[published, ("README.txt", "text"), ("other.csv", "x")], "", Ok(1), &["1 invocation"]);
    check(&[("any.txt", SINGLE)], "", Ok(1), &["any.txt"]);
    check(&[("any.csv", SINGLE), ("notes.txt", "x")], "", Ok(1), &["any.csv"]);
    let generated = "{\"IAT\": [5], \"RuntimeSpecification\": [{\"Runtime\": 3, \"Memory\": 1}]}";
    check(&[("iat0.json", generated), ("iat1.json", generated)], "", Ok(2), &["2 functions"]);
    check(&[("iat0.json", "[]")], "", Err(()), &["iat0.json"]);
    let gap = [("iat0.json", generated), ("iat1.json", generated), ("iat3.json", generated), ("iat10.json", generated)];
    check(&gap, "", Err(()), &["no iat2.json, but iat3.json"]);
    check(&gap[2..], "", Err(()), &["no iat0.json, but iat3.json"]);
    let many: Vec<(String, &str)> = (0..12).map(|number| (format!("iat{number}.json"), generated)).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    check(&many, "", Ok(12), &["12 functions"]);
}

#[test]
fn a_byte_order_mark_is_skipped_and_omissions_are_described() {
    let marked = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let (invocations, durations, memory) = (marked(INVOCATIONS), marked(DURATIONS), marked(MEMORY));
    check(&[("invocations.csv", &invocations), ("durations.csv", &durations), ("memory.csv", &memory)], "", Ok(10), &[]);
    check(&[("rows.csv", &marked(SINGLE))], "rows.csv", Ok(1), &[]);
    let one = DURATIONS.replace("o,a,g", "o,a,h");
    check(&[OFFICIAL[0], (OFFICIAL[1].0, &one), OFFICIAL[2]], "", Ok(3), &["left out: 1 function without durations"]);
}

#[test]
fn endpoints_with_a_byte_order_mark_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("endpoints.json");
    std::fs::write(&path, "\u{feff}[{\"hostname\": \"a\"}]").expect("written");
    assert_eq!(open_endpoints(&path).expect("valid")[0].hostname, "a");
}

#[test]
fn published_samples_are_opened_by_their_folders() {
    for (name, functions) in [("azure2019-day-50", 50), ("azure2021-first200", 31)] {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces").join(name);
        if !folder.exists() {
            println!("skipped: {} is not there", folder.display());
            continue;
        }
        assert_eq!(open_trace(&folder, Keep::default(), 0).expect("a trace").trace.functions(), functions);
    }
}
