# What every shell on a machine of the cluster knows: read by ~/.bashrc and by the commands that start Ray.
export PATH="$HOME/venv/bin:$PATH"
export RAY_AUTH_MODE=token                            # nobody joins, submits or looks without the token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"
export RAY_USAGE_STATS_ENABLED=0
