#compdef saltctl

_saltctl_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _SALTCTL_COMPLETE=complete_zsh saltctl)
}

compdef _saltctl_completion saltctl
