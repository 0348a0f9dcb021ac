"""`python -m multiattempt_trl ...`: the same door as the console command, for `accelerate launch -m`."""

from multiattempt_trl.cli import main

if __name__ == "__main__":
    main()
