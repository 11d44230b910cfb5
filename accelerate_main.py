"""Train a fusion network; the same as `lemamba train`.

    accelerate launch --config_file configs/huggingface/accelerate.yaml accelerate_main.py --proj_name LE-Mamba \
        --arch LEMamba --dataset wv3 --num_worker 6 -e 800 -b 32 --aug_probs 0. 0. --loss l1ssim \
        --grad_accum_steps 2 --checkpoint_every_n 20 --val_n_epoch 20 --comment "…" --log_metric --logger_on

One process: `python accelerate_main.py …`. Two on a CPU: `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 …`.
Results: log_file/<proj>/<run>/ (config.yaml, train.log, checkpoints/, weights/) and runs/<proj>/<run>/ (TensorBoard).
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("train")
