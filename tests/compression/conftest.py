import sys
from pathlib import Path

# What these tests share is a module beside them: worker_sides.
sys.path.insert(0, str(Path(__file__).parent))
