"""Ask git about the checkout that the working directory is in; answer "" where there is none."""

import subprocess


def commit() -> str:
    """The checkout's commit, with "+ changes" where files differ from it; "" outside a repository."""
    head = git("rev-parse", "--short=12", "HEAD")
    return head + (" + changes" if head and git("status", "--porcelain", "--untracked-files=no") else "")


def git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
