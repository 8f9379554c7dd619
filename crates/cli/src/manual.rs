//! Shell completions and the manual page, made of the arguments themselves.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Failure;

/// Print a shell's completions.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline completions bash > ~/.local/share/bash-completion/completions/throughline
  throughline completions zsh > \"${fpath[1]}/_throughline\"
  throughline completions fish > ~/.config/fish/completions/throughline.fish")]
pub(crate) struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Prints the completions.
pub(crate) fn completions(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::Arguments::command(), "throughline", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// Prints the manual page: the program's, then each command's.
pub(crate) fn man() -> Result<(), Failure> {
    let mut page = Vec::new();
    let mut program = crate::Arguments::command();
    program.build();
    let main = clap_mangen::Man::new(program.clone());
    main.render(&mut page)?;
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name().to_ascii_uppercase();
        writeln!(page, ".SH \"THROUGHLINE {name}\"")?;
        let man = clap_mangen::Man::new(command.clone());
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        if command.get_arguments().next().is_some() {
            man.render_options_section(&mut page)?;
        }
        if command.has_subcommands() {
            man.render_subcommands_section(&mut page)?;
        }
        man.render_extra_section(&mut page)?;
    }
    Ok(io::stdout().write_all(&page)?)
}
