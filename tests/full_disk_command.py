"""``distill`` whose checkpoints cannot be written once there is one."""

from etils.epath import gpath

from distill.cli import main as command_line


def main() -> int:
    mkdir = gpath.PosixGPath.mkdir

    def full(self, *arguments, **named):
        if "checkpoints/8.orbax" in str(self):
            raise OSError(28, "No space left on device")
        return mkdir(self, *arguments, **named)

    gpath.PosixGPath.mkdir = full
    return command_line.main()
