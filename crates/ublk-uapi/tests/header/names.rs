//! The names that a C header gives to things: macros, structs, their fields, and functions.

use std::collections::BTreeSet;

/// Every `MACRO`, `struct tag`, `tag.field`, `enum tag` and `function` of `header`.
pub(crate) fn names(header: &str) -> BTreeSet<String> {
    let text = without_comments(header).replace("\\\n", " ");
    let (directives, code): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.trim_start().starts_with('#'));
    let code = code.join("\n");

    let mut names = BTreeSet::new();
    names.extend(directives.iter().filter_map(|line| macro_name(line)));
    names.extend(blocks(&code, "enum").into_iter().map(|(tag, _)| format!("enum {tag}")));
    for (tag, body) in blocks(&code, "struct") {
        names.insert(format!("struct {tag}"));
        names.extend(fields(body).map(|field| format!("{tag}.{field}")));
    }
    names.extend(functions(&code));
    names
}

fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, comment)) = rest.split_once("/*") {
        kept.push_str(before);
        rest = comment.split_once("*/").expect("a comment that starts also ends").1;
    }
    kept + rest
}

fn macro_name(directive: &str) -> Option<String> {
    let definition = directive.trim_start().strip_prefix('#')?.trim_start().strip_prefix("define")?;
    Some(definition.trim_start().chars().take_while(is_word).collect())
}

/// `(tag, body)` of each `keyword tag { body }`. A body ends at the first brace in the first column.
fn blocks<'a>(code: &'a str, keyword: &str) -> Vec<(&'a str, &'a str)> {
    code.split('\n')
        .scan(0, |start, line| {
            let here = *start;
            *start += line.len() + 1;
            Some((here, line))
        })
        .filter_map(|(start, line)| {
            let tag = line.strip_prefix(keyword)?.strip_prefix(' ')?.split('{').next()?.trim();
            let opened = start + line.find('{')? + 1;
            let closed = code[opened..].find("\n}").or_else(|| code[opened..].find('}'))?;
            Some((tag, &code[opened..opened + closed]))
        })
        .collect()
}

/// The last word of each declaration; the braces of a union inside are no declaration.
fn fields(body: &str) -> impl Iterator<Item = &str> {
    body.split([';', '{', '}']).filter_map(|declaration| {
        let name = declaration.split('[').next()?.split_whitespace().last()?;
        (name != "union").then_some(name)
    })
}

/// The word before the parenthesis of each definition that is `static`.
fn functions(code: &str) -> impl Iterator<Item = String> {
    code.split("static ").skip(1).map(|definition| {
        let head = definition.split('(').next().expect("a split has a first part");
        head.split(|c| !is_word(&c)).rfind(|word| !word.is_empty()).expect("a function has a name").to_owned()
    })
}

fn is_word(c: &char) -> bool {
    c.is_ascii_alphanumeric() || *c == '_'
}
