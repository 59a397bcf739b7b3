//! Compares the crate with the real `ublk_cmd.h` of Linux 7.2, as a C compiler reads it.
//!
//! The header comes from `UBLK_CMD_H` (the path of an installed `linux/ublk_cmd.h`, its neighbours beside it),
//! else from `vm/build --header`. Without a header, or without a C compiler, the tests fail.

mod compiler;
mod names;
mod source;
mod table;

use std::collections::BTreeSet;

/// Names of the header that have no counterpart on purpose.
const WITHOUT_COUNTERPART: &[(&str, &str)] =
    &[("USER_BLK_DRV_CMD_INC_H", "keeps the header from being included twice")];

#[test]
fn every_size_offset_and_value_is_the_c_compilers() {
    let table: Vec<table::Row> = table::header().into_iter().chain(table::neighbours()).collect();
    let expressions: Vec<&str> = table.iter().map(|row| row.c.as_str()).collect();
    let values = compiler::evaluate(&source::header_path(), &expressions);

    let wrong: Vec<String> = table
        .iter()
        .zip(&values)
        .filter(|(row, value)| row.rust != **value)
        .map(|(row, value)| format!("{}: C says {value:#x} ({value}), Rust says {:#x} ({})", row.c, row.rust, row.rust))
        .collect();
    assert_eq!(values.len(), table.len());
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

#[test]
fn every_name_of_the_header_has_a_counterpart() {
    let path = source::header_path();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let in_header = names::names(&text);

    let mut in_rust: BTreeSet<String> = table::header().into_iter().flat_map(|row| row.covers).collect();
    for (name, reason) in WITHOUT_COUNTERPART {
        assert!(in_rust.insert((*name).to_owned()), "{name} ({reason}) has a counterpart after all");
    }

    let missing: Vec<&String> = in_header.difference(&in_rust).collect();
    let unknown: Vec<&String> = in_rust.difference(&in_header).collect();
    assert!(missing.is_empty(), "the header has names without a counterpart in table.rs: {missing:#?}");
    assert!(unknown.is_empty(), "table.rs has names that were not found in the header: {unknown:#?}");
}

/// A check of the check: names of every kind are found, wherever the header may put them.
#[test]
fn names_of_every_kind_are_found() {
    let text = "/* #define UBLK_NOT 1 */\n#define\tUBLK_A 1\n#define UBLK_B \\\n\t_IOR('u', UBLK_A, struct x)\n\
        struct ublk_s {\n#define UBLK_C 2\n\t__u32 a; /* struct ublk_not { } */\n\tunion {\n\t\t__u64 b;\n\t\t__u64 c[1];\n\t};\n\
        \tstruct ublk_t t;\n};\nenum ublk_e { UBLK_D };\nstatic __inline__ __u8 f(const struct ublk_s *s)\n{\n\treturn s->a;\n}\n";
    let expected = [
        "UBLK_A",
        "UBLK_B",
        "UBLK_C",
        "enum ublk_e",
        "f",
        "struct ublk_s",
        "ublk_s.a",
        "ublk_s.b",
        "ublk_s.c",
        "ublk_s.t",
    ];
    assert_eq!(names::names(text), expected.map(str::to_owned).into());
}
