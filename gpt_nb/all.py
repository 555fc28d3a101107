"Every public name of the library: `from gpt_nb.all import *`."
from gpt_nb.tales import *
from gpt_nb.tokenizer import *
from gpt_nb.data import *
from gpt_nb.ngram import *
from gpt_nb.gradient import *
from gpt_nb.attention import *
from gpt_nb.block import *
from gpt_nb.checkpoint import *
from gpt_nb.model import *
from gpt_nb.training import *
from gpt_nb.sampling import *
from gpt_nb.evaluation import *
from gpt_nb.emergence import *
from gpt_nb.pretrained import *
from gpt_nb.finetuning import *
from gpt_nb.adapters import *
from gpt_nb.cli import *
